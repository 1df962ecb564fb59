/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * KVM's module parameter that has INVLPG of shadow paging defer TLB flushes of
 * other vCPUs.  It is all VMs': put back when the test ends, however it does.
 */
#ifndef SELFTEST_KVM_DEFER_TLB_FLUSH_H
#define SELFTEST_KVM_DEFER_TLB_FLUSH_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "kvm_util.h"
#include "test_util.h"

#define DEFER_TLB_FLUSH	"/sys/module/kvm/parameters/defer_tlb_flush"

/* False if there is no such parameter, or it isn't ours to set. */
static inline bool can_defer_tlb_flush(void)
{
	bool can = !access(DEFER_TLB_FLUSH, W_OK);

	/* Lest an assertion that fails later is taken for a lack of privileges. */
	errno = 0;
	return can;
}

static char was_deferred;

static inline void restore_defer_tlb_flush(void)
{
	int fd = open(DEFER_TLB_FLUSH, O_WRONLY);

	if (fd >= 0 && write(fd, &was_deferred, 1) == 1)
		close(fd);
}

static inline void restore_defer_tlb_flush_and_die(int sig)
{
	restore_defer_tlb_flush();
	signal(sig, SIG_DFL);
	raise(sig);
}

static inline void set_defer_tlb_flush(bool defer)
{
	int fd = open_path_or_exit(DEFER_TLB_FLUSH, O_RDWR);

	if (!was_deferred) {
		TEST_ASSERT(read(fd, &was_deferred, 1) == 1, "Can't read " DEFER_TLB_FLUSH);
		atexit(restore_defer_tlb_flush);
		signal(SIGINT, restore_defer_tlb_flush_and_die);
		signal(SIGTERM, restore_defer_tlb_flush_and_die);
	}
	TEST_ASSERT(write(fd, defer ? "Y" : "N", 1) == 1, "Can't write " DEFER_TLB_FLUSH);
	close(fd);
}

#endif /* SELFTEST_KVM_DEFER_TLB_FLUSH_H */
