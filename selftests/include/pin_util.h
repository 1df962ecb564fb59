/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Pin threads to the CPUs that a test may use, by ordinal: tests that care about
 * who shares a CPU with whom shouldn't care about which CPUs they were given.
 * And keep NUMA balancing off the test's memory: tests that count what KVM does
 * shouldn't count what that has KVM do.
 */
#ifndef SELFTEST_KVM_PIN_UTIL_H
#define SELFTEST_KVM_PIN_UTIL_H

#include <sched.h>

#include "kvm_util.h"
#include "numaif.h"

/* To be called before any thread is pinned.  Returns the number of CPUs. */
static inline int get_allowed_cpus(cpu_set_t *cpus)
{
	kvm_sched_getaffinity(0, sizeof(*cpus), cpus);
	return CPU_COUNT(cpus);
}

/* If there are too few, they are shared: tests that can't do with that check the number. */
static inline void pin_self_to_nth_cpu(const cpu_set_t *cpus, int nth)
{
	int cpu;

	nth %= CPU_COUNT(cpus);

	for (cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (CPU_ISSET(cpu, cpus) && !nth--) {
			pin_self_to_cpu(cpu);
			return;
		}
	}
}

/*
 * NUMA balancing leaves memory alone that is bound to nodes, be it to all there are.  To
 * be called before any memory is of interest.  Without NUMA, there is nothing to do.
 */
static inline void stop_numa_balancing(void)
{
	unsigned long nodes[1024 / (8 * sizeof(long))] = {};

	if (!get_mempolicy(NULL, nodes, 1024, NULL, MPOL_F_MEMS_ALLOWED))
		set_mempolicy(MPOL_BIND, nodes, 1024);
}

#endif /* SELFTEST_KVM_PIN_UTIL_H */
