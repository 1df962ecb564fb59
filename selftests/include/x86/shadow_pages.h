/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A VM for which KVM needs many shadow pages: its guest has a page in each of many page
 * tables.  If KVM uses TDP, the guest is a nested one, whose pages are in as many page
 * tables of L1 as well.
 */
#ifndef SELFTEST_KVM_SHADOW_PAGES_H
#define SELFTEST_KVM_SHADOW_PAGES_H

#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "vmx.h"

/* The lowest limit that KVM takes (KVM_MIN_ALLOC_MMU_PAGES), and one that is no limit. */
#define MIN_SHADOW_PAGES	64
#define MAX_SHADOW_PAGES	1000000

/* The memory that one page table maps. */
#define TABLE_SIZE		SZ_2M
#define TABLES_SLOT		10
#define TABLES_GVA		0x4000000000ul
/* Where the page tables are, and those of L1, and where the guest finds them. */
#define PT_SLOT			11
#define PT_GVA			0x6000000000ul
#define ROOT_GVA		0x7000000000ul
#define PT_SLOT_MIN_SIZE	SZ_32M

struct shadow_vm {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	gpa_t gpa;
	void *mem;
	gpa_t pt_gpa;
	void *pt_mem;
	u64 pt_size;
	bool nested;
};

static inline u64 *guest_table(u64 nr)
{
	return (u64 *)(PT_GVA + nr * PAGE_SIZE);
}

/* A write that changes nothing, to a page table, or to whatever else is in PT_SLOT. */
static inline void guest_write_table(u64 *table)
{
	WRITE_ONCE(*table, READ_ONCE(*table));
}

/*
 * Has KVM zap the shadow page of the top-level page table, L1's if KVM uses TDP: that is not how
 * to write an entry, see detect_write_misaligned().
 */
static inline void guest_write_root_table(void)
{
	u16 *table = (u16 *)ROOT_GVA;

	WRITE_ONCE(*table, READ_ONCE(*table));
}

static inline u64 *guest_table_page(u64 table)
{
	return (u64 *)(TABLES_GVA + table * TABLE_SIZE);
}

static inline u64 *host_table_page(struct shadow_vm *s, u64 table)
{
	return s->mem + table * TABLE_SIZE;
}

static void shadow_vm_l1_code(void *nested, void *l2_code)
{
	if (this_cpu_has(X86_FEATURE_VMX)) {
		GUEST_ASSERT(prepare_for_vmx_operation(nested));
		GUEST_ASSERT(load_vmcs(nested));
		prepare_vmcs(nested, l2_code);
		vmlaunch();
	} else {
		struct svm_test_data *svm = nested;

		generic_svm_setup(svm, l2_code);
		run_guest(svm->vmcb, svm->vmcb_gpa);
	}
	GUEST_FAIL("L2 exited to L1");
}

static inline bool shadow_vm_supported(void)
{
	return !kvm_is_tdp_enabled() ||
	       ((kvm_cpu_has(X86_FEATURE_VMX) || kvm_cpu_has(X86_FEATURE_SVM)) &&
		kvm_cpu_has_tdp());
}

static inline void shadow_vm_create(struct shadow_vm *s, u64 nr_tables, void *guest_code)
{
	/* Those of the lowest level, and a few more. */
	u64 table, nr_pts = nr_tables + nr_tables / 64 + 16;
	gva_t nested_gva;

	s->nested = kvm_is_tdp_enabled();
	s->vm = vm_create_with_one_vcpu(&s->vcpu,
					s->nested ? (void *)shadow_vm_l1_code : guest_code);

	s->gpa = align_down((s->vm->max_gfn + 1) * PAGE_SIZE / 2, SZ_1G);
	/* More memory than there is, nearly all of which stays unused. */
	vm_userspace_mem_region_add(s->vm, VM_MEM_SRC_SHMEM, s->gpa, TABLES_SLOT,
				    nr_tables * TABLE_SIZE / PAGE_SIZE, 0);
	s->mem = addr_gpa2hva(s->vm, s->gpa);
	/* No huge pages: touching one page per table must not allocate 2 MiB each. */
	madvise(s->mem, nr_tables * TABLE_SIZE, MADV_NOHUGEPAGE);

	s->pt_gpa = align_up(s->gpa + nr_tables * TABLE_SIZE, SZ_1G);
	s->pt_size = max_t(u64, PT_SLOT_MIN_SIZE, align_up(2 * nr_pts * PAGE_SIZE, SZ_2M));
	vm_userspace_mem_region_add(s->vm, VM_MEM_SRC_ANONYMOUS, s->pt_gpa, PT_SLOT,
				    s->pt_size / PAGE_SIZE, 0);
	s->pt_mem = addr_gpa2hva(s->vm, s->pt_gpa);

	if (s->nested)
		vm_enable_tdp(s->vm);
	virt_map(s->vm, ROOT_GVA, s->nested ? s->vm->stage2_mmu.pgd : s->vm->mmu.pgd, 1);

	s->vm->memslots[MEM_REGION_PT] = PT_SLOT;
	for (table = 0; table < nr_tables; table++)
		virt_map(s->vm, (gva_t)guest_table_page(table), s->gpa + table * TABLE_SIZE, 1);
	virt_map(s->vm, PT_GVA, s->pt_gpa, s->pt_size / PAGE_SIZE);
	s->vm->memslots[MEM_REGION_PT] = 0;

	if (!s->nested)
		return;

	if (kvm_cpu_has(X86_FEATURE_VMX))
		vcpu_alloc_vmx(s->vm, &nested_gva);
	else
		vcpu_alloc_svm(s->vm, &nested_gva);
	vcpu_args_set(s->vcpu, 2, nested_gva, guest_code);
	/* That is what is allocated by now. */
	tdp_identity_map_default_memslots(s->vm);
	s->vm->memslots[MEM_REGION_PT] = PT_SLOT;
	tdp_map(s->vm, s->pt_gpa, s->pt_gpa, s->pt_size);
	for (table = 0; table < nr_tables; table++)
		tdp_map(s->vm, s->gpa + table * TABLE_SIZE, s->gpa + table * TABLE_SIZE,
			PAGE_SIZE);
	s->vm->memslots[MEM_REGION_PT] = 0;
}

static inline void set_shadow_page_limit(struct kvm_vm *vm, unsigned long limit)
{
	vm_ioctl(vm, KVM_SET_NR_MMU_PAGES, (void *)limit);
}

#endif /* SELFTEST_KVM_SHADOW_PAGES_H */
