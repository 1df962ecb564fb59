/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Eager splitting of huge pages on arm64, which is off unless userspace asks for it.
 */
#ifndef SELFTEST_KVM_EAGER_SPLIT_H
#define SELFTEST_KVM_EAGER_SPLIT_H

#include <linux/sizes.h>

#include "kvm_util.h"

/* The chunk size itself isn't advertised, the sizes that it can have are. */
static inline bool eager_split_supported(void)
{
	return kvm_check_cap(KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES) & SZ_2M;
}

/* KVM takes the chunk size only from VMs without memslots: take out the library's for once. */
static inline void vm_enable_eager_split(struct kvm_vm *vm)
{
	struct kvm_userspace_memory_region2 *region = &memslot2region(vm, 0)->region;
	u64 size = region->memory_size;

	region->memory_size = 0;
	vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION2, region);
	vm_enable_cap(vm, KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, SZ_2M);
	region->memory_size = size;
	vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION2, region);
}

#endif /* SELFTEST_KVM_EAGER_SPLIT_H */
