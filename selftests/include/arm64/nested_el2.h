/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The smallest hypervisor for arm64: a guest at EL2 that goes on as a nested guest at
 * EL1, with the translation regime and the stack it has, and a stage-2 of its own that
 * maps everything to itself.  The nested guest's ucalls go to userspace, it never
 * exits to L1.
 */
#ifndef SELFTEST_KVM_NESTED_EL2_H
#define SELFTEST_KVM_NESTED_EL2_H

#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

/* What L1's stage-2 maps, in 1G blocks: all of the GPAs, which have 40 bits. */
#define L2_IPA_BITS		40
#define L1_STAGE2_SIZE		(sizeof(u64) << (L2_IPA_BITS - 30))
/* 4K granule, concatenated tables at level 1, write-back, inner shareable. */
#define L1_VTCR			(BIT(31) | 2 << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 1 << 6 | \
				 (64 - L2_IPA_BITS))
/* Valid block, normal memory, readable and writable, inner shareable, accessed. */
#define L1_STAGE2_BLOCK		(BIT(10) | 3 << 8 | 3 << 6 | 0xf << 2 | 1)

/* By E2H, names of EL1's registers are EL2's, and those of EL12 are EL1's. */
static inline void __noreturn enter_l2(void (*l2_guest_code)(u32), u32 arg, gpa_t stage2)
{
	GUEST_ASSERT_EQ(get_current_el(), 2);

	write_sysreg_s(read_sysreg(ttbr0_el1), SYS_TTBR0_EL12);
	write_sysreg_s(read_sysreg(tcr_el1), SYS_TCR_EL12);
	write_sysreg_s(read_sysreg(mair_el1), SYS_MAIR_EL12);
	write_sysreg_s(read_sysreg(sctlr_el1), SYS_SCTLR_EL12);
	write_sysreg_s(read_sysreg(cpacr_el1), SYS_CPACR_EL12);
	write_sysreg_s(L1_VTCR, SYS_VTCR_EL2);
	write_sysreg_s(stage2 | BIT_ULL(48), SYS_VTTBR_EL2);
	write_sysreg(HCR_EL2_RW | HCR_EL2_E2H | HCR_EL2_VM, hcr_el2);
	write_sysreg((u64)l2_guest_code, elr_el2);
	write_sysreg(PSR_D_BIT | PSR_A_BIT | PSR_I_BIT | PSR_F_BIT | PSR_MODE_EL1h, spsr_el2);
	isb();
	asm volatile("mov	x9, sp\n"
		     "msr	sp_el1, x9\n"
		     "mov	w0, %w0\n"
		     "eret" : : "r" (arg) : "x0", "x9", "memory");
	__builtin_unreachable();
}

/* Pages that L1's stage-2 takes, with any page size. */
#define L1_STAGE2_PAGES		(2 * L1_STAGE2_SIZE / SZ_4K)

/* L1's stage-2: returns the GPA of its tables. */
static inline gpa_t create_l1_stage2(struct kvm_vm *vm)
{
	size_t nr = 2 * DIV_ROUND_UP(L1_STAGE2_SIZE, vm->page_size), i;
	gpa_t stage2;
	u64 *table;

	TEST_ASSERT(vm->pa_bits == L2_IPA_BITS, "Nested guests are for modes with GPAs of %d bits",
		    L2_IPA_BITS);

	/* Twice as much as it takes, as tables must be aligned to their size. */
	stage2 = align_up(vm_phy_pages_alloc(vm, nr, KVM_GUEST_PAGE_TABLE_MIN_PADDR,
					     vm->memslots[MEM_REGION_PT]), L1_STAGE2_SIZE);
	table = addr_gpa2hva(vm, stage2);
	for (i = 0; i < L1_STAGE2_SIZE / sizeof(u64); i++)
		table[i] = i * SZ_1G | L1_STAGE2_BLOCK;

	return stage2;
}

#endif /* SELFTEST_KVM_NESTED_EL2_H */
