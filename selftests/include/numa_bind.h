/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * NUMA balancing makes PTEs inaccessible, now and then, to see who accesses them.  KVM
 * zaps the SPTEs, and with them what it knows of accesses.  Memory with a policy of its
 * own is left alone.
 */
#ifndef SELFTEST_KVM_NUMA_BIND_H
#define SELFTEST_KVM_NUMA_BIND_H

#include <errno.h>
#include <string.h>

#include "kvm_util.h"
#include "numaif.h"
#include "test_util.h"

/* Any node will do, as before. */
static inline void keep_from_numa_balancing(void *mem, size_t size)
{
	unsigned long nodes[16] = {};

	if (!is_numa_balancing_enabled())
		return;
	TEST_ASSERT(!get_mempolicy(NULL, nodes, 8 * sizeof(nodes), NULL, MPOL_F_MEMS_ALLOWED) &&
		    !mbind(mem, size, MPOL_BIND, nodes, 8 * sizeof(nodes), 0),
		    "mbind: %s", strerror(errno));
}

#endif /* SELFTEST_KVM_NUMA_BIND_H */
