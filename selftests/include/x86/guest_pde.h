/* SPDX-License-Identifier: GPL-2.0-only */
/* The entry of a guest's page directory; the library walks to level 1 only. */
#ifndef SELFTEST_KVM_GUEST_PDE_H
#define SELFTEST_KVM_GUEST_PDE_H

#include "kvm_util.h"
#include "processor.h"

/* Where @gva's page directory points to a page table, or maps a huge page. */
static inline u64 *get_pde(struct kvm_vm *vm, gva_t gva)
{
	u64 *table = addr_gpa2hva(vm, vm->mmu.pgd);
	int level;

	for (level = vm->mmu.pgtable_levels; level > PG_LEVEL_2M; level--)
		table = addr_gpa2hva(vm, table[(gva >> PG_LEVEL_SHIFT(level)) & 0x1ff] &
				     PHYSICAL_PAGE_MASK);
	return &table[(gva >> PG_LEVEL_SHIFT(PG_LEVEL_2M)) & 0x1ff];
}

#endif /* SELFTEST_KVM_GUEST_PDE_H */
