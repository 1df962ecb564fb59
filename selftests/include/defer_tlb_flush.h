/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * KVM's module parameter that has INVLPG of shadow paging defer TLB flushes of
 * other vCPUs.
 */
#ifndef SELFTEST_KVM_DEFER_TLB_FLUSH_H
#define SELFTEST_KVM_DEFER_TLB_FLUSH_H

#include <fcntl.h>
#include <unistd.h>

#include "kvm_util.h"
#include "test_util.h"

#define DEFER_TLB_FLUSH	"/sys/module/kvm/parameters/defer_tlb_flush"

/* False if there is no such parameter, or it isn't ours to set. */
static inline bool can_defer_tlb_flush(void)
{
	return !access(DEFER_TLB_FLUSH, W_OK);
}

/* Returns what it was. */
static inline bool set_defer_tlb_flush(bool defer)
{
	int fd = open_path_or_exit(DEFER_TLB_FLUSH, O_RDWR);
	char was;

	TEST_ASSERT(read(fd, &was, 1) == 1, "Can't read " DEFER_TLB_FLUSH);
	TEST_ASSERT(write(fd, defer ? "Y" : "N", 1) == 1, "Can't write " DEFER_TLB_FLUSH);
	close(fd);
	return was == 'Y';
}

#endif /* SELFTEST_KVM_DEFER_TLB_FLUSH_H */
