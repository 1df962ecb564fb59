// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that a vCPU's own INVLPG isn't lost if another vCPU loads CR3 while more shadow pages are
 * out of sync than KVM synchronizes at once.
 *
 * One page table, the hub, has the only writable mappings of others.  The toggler writes one of
 * those, the target, again and again, by means of its TLB.  The loader clears all mappings in the
 * hub, and loads CR3 without having told the toggler.  KVM then synchronizes the hub first, i.e.
 * drops all SPTEs that make the target writable.  It's only in a later round that KVM gets to the
 * target: fillers that are out of sync, too, come first, and more of them come last, so that it
 * takes KVM a while to be done.
 *
 * What the toggler writes until its TLB is flushed must have KVM consider the target to be out
 * of sync, or must be what KVM reads.  The toggler takes a page fault sooner or later.  It then
 * executes INVLPG for all that the target maps, and must find what it has written last.
 *
 * If anything flushes the toggler's TLB early, e.g. as an interrupt has it exit to an emulated
 * CPU, the page fault comes early, and the round can't fail.
 *
 * With TDP, KVM has no shadow pages of the guest's page tables.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GPA	((gpa_t)SZ_4G)
/* In the order in which KVM synchronizes page tables, which map SZ_2M each. */
#define HUB_GVA		0x100000000ul
#define HUB		0
/* At least as many as KVM synchronizes at once. */
#define TARGET		17
#define NR_TABLES	26
#define TABLE_GVA(nr)	(HUB_GVA + (nr) * SZ_2M)
/* A page table of which nothing is changed. */
#define SELF_GVA	0x140000000ul
/* What a filler, and the target, maps. */
#define NR_PTES		64ul
#define NR_TOGGLED	16ul
#define NR_ROUNDS	50

/* The page tables but the hub, as the hub maps them, and the hub, as another page table does. */
#define TABLE(nr)	((u64 *)(HUB_GVA + (nr) * PAGE_SIZE))
static u64 *hub = (u64 *)SELF_GVA;

/* Set by the host: what the hub maps, and either page that the target maps. */
static u64 table_ptes[NR_TABLES];
static u64 page_ptes[2];

/* Between the vCPUs: the round that is toggled, of which CR3 is loaded, and that is verified. */
static u64 toggling, loaded, verified;
/* How often the toggler has written in the round, and whether the loader has cleared the hub. */
static u64 nr_writes, cleared;
static bool stop;

static unsigned long nr_ptes(u64 nr)
{
	return nr == TARGET ? NR_TOGGLED : NR_PTES;
}

static u64 *target_page(u64 nr)
{
	return (u64 *)(TABLE_GVA(TARGET) + nr * PAGE_SIZE);
}

static void loader_code(void)
{
	u64 round, nr, i;

	for (round = 1; round <= NR_ROUNDS && !READ_ONCE(stop); round++) {
		for (nr = HUB + 1; nr < NR_TABLES; nr++)
			WRITE_ONCE(hub[nr], table_ptes[nr]);
		set_cr3(get_cr3());
		for (i = 0; i < NR_TOGGLED; i++)
			WRITE_ONCE(TABLE(TARGET)[i], page_ptes[0]);
		set_cr3(get_cr3());

		/* Populate the shadow pages, in which KVM is to find nothing that has changed. */
		for (nr = HUB + 1; nr < NR_TABLES; nr++) {
			for (i = 0; i < nr_ptes(nr); i++)
				READ_ONCE(*(u64 *)(TABLE_GVA(nr) + i * PAGE_SIZE));
			/* Out of sync. */
			if (nr != TARGET)
				WRITE_ONCE(*TABLE(nr), READ_ONCE(*TABLE(nr)));
		}

		WRITE_ONCE(nr_writes, 0);
		WRITE_ONCE(toggling, round);
		while (READ_ONCE(nr_writes) < 4 * NR_TOGGLED)
			cpu_relax();

		for (nr = HUB + 1; nr < NR_TABLES; nr++)
			WRITE_ONCE(hub[nr], 0);
		WRITE_ONCE(cleared, round);
		set_cr3(get_cr3());
		WRITE_ONCE(loaded, round);

		while (READ_ONCE(verified) != round)
			cpu_relax();
	}
	GUEST_DONE();
}

static void toggler_code(void)
{
	u64 round, i, which, last[NR_TOGGLED], nr_stale = 0, nr_late = 0;
	bool late, seen;
	u8 vector;

	for (round = 1; round <= NR_ROUNDS && !nr_stale; round++) {
		while (READ_ONCE(toggling) != round)
			cpu_relax();

		memset(last, 0, sizeof(last));
		late = false;
		for (i = 0; READ_ONCE(loaded) != round; i++) {
			seen = READ_ONCE(cleared) == round;
			/* Half of the PTEs map one page, half of them the other one. */
			which = (i / NR_TOGGLED + i) % 2;
			vector = kvm_asm_safe("mov %[pte], (%[ptr])", [pte] "r"(page_ptes[which]),
					      [ptr] "r"(&TABLE(TARGET)[i % NR_TOGGLED]));
			if (vector) {
				GUEST_ASSERT_EQ(vector, PF_VECTOR);
				break;
			}
			last[i % NR_TOGGLED] = which;
			late = seen;
			WRITE_ONCE(nr_writes, i + 1);
		}
		nr_late += late;

		while (READ_ONCE(loaded) != round)
			cpu_relax();
		for (i = 0; i < NR_TOGGLED; i++) {
			invlpg((unsigned long)target_page(i));
			nr_stale += READ_ONCE(*target_page(i)) != last[i];
		}
		WRITE_ONCE(stop, nr_stale);
		WRITE_ONCE(verified, round);
	}
	GUEST_SYNC3(nr_stale, round - 1, nr_late);
	GUEST_DONE();
}

static void *run_loader(void *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	if (get_ucall(vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT_EQ(uc.cmd, UCALL_DONE);
	return NULL;
}

static gpa_t page_table(struct kvm_vm *vm, gva_t gva)
{
	return align_down(addr_hva2gpa(vm, vm_get_pte(vm, gva)), PAGE_SIZE);
}

int main(int argc, char *argv[])
{
	struct kvm_vcpu *loader, *toggler;
	struct kvm_vm *vm;
	pthread_t thread;
	struct ucall uc;
	u64 used;
	int opt, nr;

	while ((opt = getopt(argc, argv, "h")) != -1) {
		printf("usage: %s\n", argv[0]);
		exit(opt == 'h' ? 0 : 1);
	}

	TEST_REQUIRE(!kvm_is_tdp_enabled());

	vm = __vm_create(VM_SHAPE_DEFAULT, 2, 2 * NR_TABLES);
	loader = vm_vcpu_add(vm, 0, loader_code);
	toggler = vm_vcpu_add(vm, 1, toggler_code);
	kvm_arch_vm_finalize_vcpus(vm);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, 2, 0);
	*(u64 *)addr_gpa2hva(vm, TEST_GPA + PAGE_SIZE) = 1;

	for (nr = HUB + 1; nr < NR_TABLES; nr++) {
		unsigned long i;

		for (i = 0; i < nr_ptes(nr); i++)
			virt_map(vm, TABLE_GVA(nr) + i * PAGE_SIZE, TEST_GPA, 1);
		virt_map(vm, (gva_t)TABLE(nr), page_table(vm, TABLE_GVA(nr)), 1);
	}
	virt_map(vm, SELF_GVA, page_table(vm, HUB_GVA + PAGE_SIZE), 1);

	used = PTE_ACCESSED_MASK(&vm->mmu) | PTE_DIRTY_MASK(&vm->mmu);
	for (nr = HUB + 1; nr < NR_TABLES; nr++)
		table_ptes[nr] = *vm_get_pte(vm, (gva_t)TABLE(nr)) | used;
	page_ptes[0] = *vm_get_pte(vm, TABLE_GVA(TARGET)) | used;
	page_ptes[1] = (page_ptes[0] & ~PHYSICAL_PAGE_MASK) | (TEST_GPA + PAGE_SIZE);
	sync_global_to_guest(vm, table_ptes);
	sync_global_to_guest(vm, page_ptes);

	kvm_pthread_create(&thread, NULL, run_loader, loader);
	vcpu_run(toggler);
	switch (get_ucall(toggler, &uc)) {
	case UCALL_SYNC:
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
		break;
	default:
		TEST_FAIL("Unexpected exit, %s", exit_reason_str(toggler->run->exit_reason));
	}
	kvm_pthread_join(thread, NULL);
	printf("The page table was written after the mapping was cleared in %lu of %lu rounds\n",
	       (unsigned long)uc.args[2], (unsigned long)uc.args[1]);
	TEST_ASSERT(!uc.args[0], "INVLPG was lost for %lu of %lu pages, in round %lu of %d",
		    (unsigned long)uc.args[0], NR_TOGGLED, (unsigned long)uc.args[1], NR_ROUNDS);
	printf("none lost in %d rounds\n", NR_ROUNDS);
	kvm_vm_free(vm);
	return 0;
}
