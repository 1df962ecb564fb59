/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Set a boolean parameter of KVM's module, one per test.  It applies to all VMs: put it back
 * when the test ends, however it ends.
 */
#ifndef SELFTEST_KVM_KVM_PARAM_H
#define SELFTEST_KVM_KVM_PARAM_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "kvm_util.h"
#include "test_util.h"

static char kvm_param_path[PATH_MAX];
static char kvm_param_was;

/* False if there is no such parameter, or it isn't ours to set. */
static inline bool can_set_kvm_param(const char *name)
{
	bool can;

	snprintf(kvm_param_path, sizeof(kvm_param_path), "/sys/module/kvm/parameters/%s", name);
	can = !access(kvm_param_path, W_OK);
	/* Lest an assertion that fails later is taken for a lack of privileges. */
	errno = 0;
	return can;
}

/* Of the parameter that can_set_kvm_param() was asked about: false if KVM doesn't have it. */
static inline bool has_kvm_param(void)
{
	bool has = !access(kvm_param_path, F_OK);

	errno = 0;
	return has;
}

static inline void restore_kvm_param(void)
{
	int fd = open(kvm_param_path, O_WRONLY);

	if (fd >= 0 && write(fd, &kvm_param_was, 1) == 1)
		close(fd);
}

static inline void restore_kvm_param_and_die(int sig)
{
	restore_kvm_param();
	signal(sig, SIG_DFL);
	raise(sig);
}

/* Of the parameter that can_set_kvm_param() was asked about. */
static inline void set_kvm_param(bool value)
{
	int fd = open_path_or_exit(kvm_param_path, O_RDWR);

	if (!kvm_param_was) {
		TEST_ASSERT(read(fd, &kvm_param_was, 1) == 1, "Can't read %s", kvm_param_path);
		atexit(restore_kvm_param);
		signal(SIGHUP, restore_kvm_param_and_die);
		signal(SIGINT, restore_kvm_param_and_die);
		signal(SIGTERM, restore_kvm_param_and_die);
	}
	TEST_ASSERT(write(fd, value ? "Y" : "N", 1) == 1, "Can't write %s", kvm_param_path);
	close(fd);
}

#endif /* SELFTEST_KVM_KVM_PARAM_H */
