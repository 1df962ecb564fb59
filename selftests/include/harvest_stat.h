/* SPDX-License-Identifier: GPL-2.0-only */
/* The statistic of how long a VM's longest harvest of its dirty log took. */
#ifndef SELFTEST_KVM_HARVEST_STAT_H
#define SELFTEST_KVM_HARVEST_STAT_H

#include <stdlib.h>
#include <string.h>

#include "kvm_util.h"
#include "test_util.h"

#define HARVEST_STAT	"dirty_log_harvest_max_ns"

static inline bool has_harvest_stat(struct kvm_vm *vm)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc *descs, *desc;
	bool found = false;
	u32 i;

	if (!kvm_has_cap(KVM_CAP_BINARY_STATS_FD))
		return false;

	read_stats_header(vm->stats.fd, &header);
	descs = read_stats_descriptors(vm->stats.fd, &header);
	for (i = 0; i < header.num_desc && !found; i++) {
		desc = get_stats_descriptor(descs, i, &header);
		found = !strcmp(desc->name, HARVEST_STAT);
		if (found)
			TEST_ASSERT((desc->flags & KVM_STATS_TYPE_MASK) == KVM_STATS_TYPE_PEAK &&
				    (desc->flags & KVM_STATS_UNIT_MASK) == KVM_STATS_UNIT_SECONDS &&
				    desc->exponent == -9,
				    HARVEST_STAT " is no peak in nanoseconds");
	}
	free(descs);
	return found;
}

static inline u64 longest_harvest_ns(struct kvm_vm *vm)
{
	return vm_get_stat(vm, dirty_log_harvest_max_ns);
}

#endif /* SELFTEST_KVM_HARVEST_STAT_H */
