// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that a vCPU's own INVLPG, or CR3 load, isn't lost while another vCPU has KVM link an
 * existing shadow page that is out of sync below the root that both of them use.
 *
 * The linker rewrites a PDE, one ignored bit of it: KVM drops the link to the shadow page of
 * the page table, which stays out of sync.  The linker then loads CR3, whereupon nothing below
 * the root is out of sync, and reads the last page that the page table maps: KVM links the
 * shadow page again.  Meanwhile, the invalidator re-points the first PTE of the page table,
 * which KVM doesn't intercept, executes INVLPG, or loads CR3, and must find the new page.
 *
 * With TDP, KVM has no shadow pages of the guest's page tables.
 *
 * A lost invalidation takes that it happens between what KVM does to link the shadow page.
 * The invalidator waits for a random part of the time that the linker needed in the round
 * before.  On a kernel that loses them, that hits every few rounds.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/sizes.h>

#include "guest_pde.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GPA	((gpa_t)SZ_4G)
/* As many as a page table maps, and another one to re-point the first PTE to. */
#define NR_PAGES	512
#define TEST_GVA	0xc0000000ul
/* Not below the PDE's page table, nor below the page table that it is in. */
#define PTE_GVA		0x100000000ul
#define PDE_GVA		0x100001000ul
#define PDE_IGNORED	BIT_ULL(9)
#define NR_ROUNDS	400

/* Set by the host. */
static u64 *guest_pte;
static u64 *guest_pde;
static u64 guest_ptes[2];
static bool use_cr3;

/* Between the vCPUs: the round that may begin, in which the linker faults, and has. */
static u64 todo, linking, linked;
static u64 link_ticks;
/* TSCs may differ, and the vCPU may move. */
#define MAX_LINK_TICKS	100000000ul
static bool stop;

static void linker_code(void)
{
	u64 nr, start;

	for (nr = 1; nr <= NR_ROUNDS; nr++) {
		while (READ_ONCE(todo) != nr) {
			if (READ_ONCE(stop))
				GUEST_DONE();
			cpu_relax();
		}
		WRITE_ONCE(*guest_pde, READ_ONCE(*guest_pde) ^ PDE_IGNORED);
		set_cr3(get_cr3());

		WRITE_ONCE(linking, nr);
		start = rdtsc();
		READ_ONCE(*(u64 *)(TEST_GVA + (NR_PAGES - 1) * PAGE_SIZE));
		WRITE_ONCE(link_ticks, rdtsc() - start);
		WRITE_ONCE(linked, nr);
	}
	GUEST_DONE();
}

static void invalidate(void)
{
	if (use_cr3)
		set_cr3(get_cr3());
	else
		invlpg(TEST_GVA);
}

static void invalidator_code(void)
{
	u64 nr, i, until, seed = 1, stale = 0;

	for (nr = 1; nr <= NR_ROUNDS && !stale; nr++) {
		WRITE_ONCE(*guest_pte, guest_ptes[(nr - 1) % 2]);
		invalidate();
		/* Populate the shadow page, so that synchronizing it takes time. */
		for (i = 0; i < NR_PAGES; i++)
			READ_ONCE(*(u64 *)(TEST_GVA + i * PAGE_SIZE));
		/* Out of sync, once more, with the SPTE present: the PTE is as it was. */
		WRITE_ONCE(*guest_pte, guest_ptes[(nr - 1) % 2]);

		WRITE_ONCE(todo, nr);
		while (READ_ONCE(linking) != nr)
			cpu_relax();
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		until = rdtsc() + (seed >> 33) % (min_t(u64, READ_ONCE(link_ticks),
							MAX_LINK_TICKS) + 1);
		while (rdtsc() < until)
			;

		WRITE_ONCE(*guest_pte, guest_ptes[nr % 2]);
		invalidate();
		while (READ_ONCE(linked) != nr)
			cpu_relax();
		if (READ_ONCE(*(u64 *)TEST_GVA) != nr % 2)
			stale = nr;
	}
	WRITE_ONCE(stop, true);
	GUEST_SYNC(stale);
	GUEST_DONE();
}

static void *run_linker(void *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	if (get_ucall(vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT_EQ(uc.cmd, UCALL_DONE);
	return NULL;
}

static void run_test(bool cr3)
{
	const char *name = cr3 ? "CR3 load" : "INVLPG";
	struct kvm_vcpu *linker, *invalidator;
	struct kvm_vm *vm;
	pthread_t thread;
	struct ucall uc;
	u64 *pte, *pde;

	vm = __vm_create(VM_SHAPE_DEFAULT, 2, 0);
	linker = vm_vcpu_add(vm, 0, linker_code);
	invalidator = vm_vcpu_add(vm, 1, invalidator_code);
	kvm_arch_vm_finalize_vcpus(vm);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, NR_PAGES + 1, 0);
	*(u64 *)addr_gpa2hva(vm, TEST_GPA + NR_PAGES * PAGE_SIZE) = 1;

	virt_map(vm, TEST_GVA, TEST_GPA, NR_PAGES);
	pte = vm_get_pte(vm, TEST_GVA);
	pde = get_pde(vm, TEST_GVA);
	guest_ptes[0] = *pte | PTE_ACCESSED_MASK(&vm->mmu) | PTE_DIRTY_MASK(&vm->mmu);
	guest_ptes[1] = (guest_ptes[0] & ~PHYSICAL_PAGE_MASK) | (TEST_GPA + NR_PAGES * PAGE_SIZE);
	virt_map(vm, PTE_GVA, align_down(addr_hva2gpa(vm, pte), PAGE_SIZE), 1);
	virt_map(vm, PDE_GVA, align_down(addr_hva2gpa(vm, pde), PAGE_SIZE), 1);
	guest_pte = (u64 *)(PTE_GVA + (unsigned long)pte % PAGE_SIZE);
	guest_pde = (u64 *)(PDE_GVA + (unsigned long)pde % PAGE_SIZE);
	use_cr3 = cr3;
	sync_global_to_guest(vm, guest_ptes);
	sync_global_to_guest(vm, guest_pte);
	sync_global_to_guest(vm, guest_pde);
	sync_global_to_guest(vm, use_cr3);

	kvm_pthread_create(&thread, NULL, run_linker, linker);
	vcpu_run(invalidator);
	switch (get_ucall(invalidator, &uc)) {
	case UCALL_SYNC:
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
		break;
	default:
		TEST_FAIL("Unexpected exit, %s", exit_reason_str(invalidator->run->exit_reason));
	}
	kvm_pthread_join(thread, NULL);
	TEST_ASSERT(!uc.args[1], "A vCPU's own %s was lost, in round %lu of %d", name,
		    (unsigned long)uc.args[1], NR_ROUNDS);
	printf("%s: none lost in %d rounds\n", name, NR_ROUNDS);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	int opt;

	while ((opt = getopt(argc, argv, "h")) != -1) {
		printf("usage: %s\n", argv[0]);
		exit(opt == 'h' ? 0 : 1);
	}

	TEST_REQUIRE(!kvm_is_tdp_enabled());
	run_test(false);
	run_test(true);
	return 0;
}
