// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that KVM notices writes to a page table of the guest through an address that was MMIO
 * before: the page's memslot is created after the guest has accessed the address.
 *
 * The guest accesses the address, for which KVM caches that it is MMIO.  The memslot is created,
 * with a page table in it, which the guest uses.  Then it re-points a PTE through the address,
 * executes INVLPG, and must read the new page.
 *
 * With TDP, KVM has no shadow pages of the guest's page tables.
 */
#include <stdlib.h>

#include <linux/sizes.h>

#include "guest_pde.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define PT_SLOT		10
#define PT_GPA		0xd0000000ul
#define PT_GVA		0xd0000000ul

#define DATA_SLOT	11
#define DATA_GPA	((gpa_t)SZ_4G)
/* What the page table maps, i.e. nothing else may be in these 2M. */
#define DATA_GVA	0x200000000ul

/* Set by the host. */
static u64 guest_ptes[2];

static void guest_code(void)
{
	u64 *pte = (u64 *)PT_GVA;

	/* MMIO, which userspace ignores. */
	WRITE_ONCE(*pte, 0);
	GUEST_SYNC(0);

	GUEST_ASSERT_EQ(READ_ONCE(*(u64 *)DATA_GVA), 1);
	WRITE_ONCE(*pte, guest_ptes[1]);
	invlpg(DATA_GVA);
	GUEST_ASSERT_EQ(READ_ONCE(*(u64 *)DATA_GVA), 2);
	GUEST_DONE();
}

static void run_until_ucall(struct kvm_vcpu *vcpu, u64 cmd)
{
	struct ucall uc;
	u64 got;

	do {
		vcpu_run(vcpu);
	} while (vcpu->run->exit_reason == KVM_EXIT_MMIO);

	got = get_ucall(vcpu, &uc);
	if (got == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT(got == cmd, "Unexpected exit: %s", exit_reason_str(vcpu->run->exit_reason));
}

int main(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	u64 *data, *pde, pte;

	TEST_REQUIRE(!kvm_is_tdp_enabled());

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, DATA_GPA, DATA_SLOT, 2, 0);
	data = addr_gpa2hva(vm, DATA_GPA);
	data[0] = 1;
	data[PAGE_SIZE / sizeof(*data)] = 2;

	virt_map(vm, PT_GVA, PT_GPA, 1);
	/* Have the library make the page tables, and take over the last one. */
	virt_map(vm, DATA_GVA, DATA_GPA, 1);
	pte = *vm_get_pte(vm, DATA_GVA) | PTE_ACCESSED_MASK(&vm->mmu) | PTE_DIRTY_MASK(&vm->mmu);
	guest_ptes[0] = pte;
	guest_ptes[1] = pte + PAGE_SIZE;
	pde = get_pde(vm, DATA_GVA);
	*pde = (*pde & ~PHYSICAL_PAGE_MASK) | PT_GPA;
	sync_global_to_guest(vm, guest_ptes);

	run_until_ucall(vcpu, UCALL_SYNC);

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, PT_GPA, PT_SLOT, 1, 0);
	*(u64 *)addr_gpa2hva(vm, PT_GPA) = guest_ptes[0];

	run_until_ucall(vcpu, UCALL_DONE);

	kvm_vm_free(vm);
	return 0;
}
