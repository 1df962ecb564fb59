/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest's clock, which it reads without an exit, and the duration of its ticks.
 */
#ifndef SELFTEST_KVM_GUEST_CLOCK_H
#define SELFTEST_KVM_GUEST_CLOCK_H

#include "kvm_util.h"
#include "processor.h"

#if defined(__x86_64__)
static inline u64 guest_clock(void)
{
	return rdtsc();
}

/* To be called while the vCPU doesn't run. */
static inline double ns_per_tick(struct kvm_vcpu *vcpu)
{
	return 1e6 / __vcpu_ioctl(vcpu, KVM_GET_TSC_KHZ, NULL);
}
#elif defined(__aarch64__)
#include "arch_timer.h"

static inline u64 guest_clock(void)
{
	return timer_get_cntct(VIRTUAL);
}

/* The host's counter ticks like the guest's. */
static inline double ns_per_tick(struct kvm_vcpu *vcpu)
{
	return 1e9 / timer_get_cntfrq();
}
#elif defined(__riscv)
#include "arch_timer.h"

static inline u64 guest_clock(void)
{
	return timer_get_cycles();
}

static inline double ns_per_tick(struct kvm_vcpu *vcpu)
{
	return 1e9 / vcpu_get_reg(vcpu, RISCV_TIMER_REG(frequency));
}
#else
#error "The guest's clock, and its frequency, are known for x86, arm64 and riscv only"
#endif

#endif /* SELFTEST_KVM_GUEST_CLOCK_H */
