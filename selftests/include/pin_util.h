/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Pin threads to the CPUs that a test may use, by ordinal: tests that care about
 * who shares a CPU with whom shouldn't care about which CPUs they were given.
 */
#ifndef SELFTEST_KVM_PIN_UTIL_H
#define SELFTEST_KVM_PIN_UTIL_H

#include <sched.h>

#include "kvm_util.h"

/* To be called before any thread is pinned.  Returns the number of CPUs. */
static inline int get_allowed_cpus(cpu_set_t *cpus)
{
	kvm_sched_getaffinity(0, sizeof(*cpus), cpus);
	return CPU_COUNT(cpus);
}

static inline void pin_self_to_nth_cpu(const cpu_set_t *cpus, int nth)
{
	int cpu;

	for (cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (CPU_ISSET(cpu, cpus) && !nth--) {
			pin_self_to_cpu(cpu);
			return;
		}
	}
	TEST_FAIL("Too few CPUs");
}

#endif /* SELFTEST_KVM_PIN_UTIL_H */
