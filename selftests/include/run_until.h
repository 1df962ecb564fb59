/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Run a vCPU up to a ucall, for guests that proceed in steps.
 */
#ifndef SELFTEST_KVM_RUN_UNTIL_H
#define SELFTEST_KVM_RUN_UNTIL_H

#include "kvm_util.h"
#include "test_util.h"
#include "ucall_common.h"

/* Fails if the next exit to userspace isn't due to ucall @cmd. */
static inline void run_until(struct kvm_vcpu *vcpu, u64 cmd)
{
	struct ucall uc;
	u64 got;

	vcpu_run(vcpu);
	got = get_ucall(vcpu, &uc);
	if (got == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT(got == cmd, "Unexpected exit: %s", exit_reason_str(vcpu->run->exit_reason));
}

#endif /* SELFTEST_KVM_RUN_UNTIL_H */
