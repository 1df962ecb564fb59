// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that a write is logged if KVM makes the page writable while it synchronizes a shadow
 * page, i.e. without the guest having faulted.
 *
 * KVM_GET_DIRTY_LOG write-protects the page.  The guest then changes something else in the
 * page's PTE, whether it is executable, and loads CR3: KVM makes an SPTE for what the PTE
 * permits, which is to write.  As the write that follows doesn't fault, the page must have been
 * marked dirty by then.
 *
 * With TDP, the guest's PTEs are no concern of KVM's, i.e. the write faults.
 */
#include <stdio.h>
#include <stdlib.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GPA	((gpa_t)SZ_4G)
#define TEST_GVA	0xc0000000ul
/* Not below the page table that is written. */
#define PTE_GVA		0xd0000000ul
#define PTE_NX		BIT_ULL(63)
#define NR_ROUNDS	16

static u64 *guest_pte;

static void guest_code(void)
{
	u64 nr;

	for (nr = 1; ; nr++) {
		WRITE_ONCE(*guest_pte, *guest_pte ^ PTE_NX);
		set_cr3(get_cr3());
		WRITE_ONCE(*(u64 *)TEST_GVA, nr);
		GUEST_SYNC(nr);
	}
}

int main(void)
{
	unsigned long bitmap = 0;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	struct ucall uc;
	u64 *pte, nr;

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, 1,
				    KVM_MEM_LOG_DIRTY_PAGES);
	virt_map(vm, TEST_GVA, TEST_GPA, 1);
	pte = vm_get_pte(vm, TEST_GVA);
	virt_map(vm, PTE_GVA, align_down(addr_hva2gpa(vm, pte), PAGE_SIZE), 1);
	guest_pte = (u64 *)(PTE_GVA + (unsigned long)pte % PAGE_SIZE);
	sync_global_to_guest(vm, guest_pte);

	for (nr = 1; nr <= NR_ROUNDS; nr++) {
		vcpu_run(vcpu);
		TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
		TEST_ASSERT_EQ(*(u64 *)addr_gpa2hva(vm, TEST_GPA), nr);
		kvm_vm_get_dirty_log(vm, TEST_SLOT, &bitmap);
		TEST_ASSERT(test_bit(0, &bitmap), "Write %lu is not in the log", (unsigned long)nr);
	}

	kvm_vm_free(vm);
	return 0;
}
