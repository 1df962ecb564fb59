// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that writes are logged for the right gfn, if a guest changes its PTE while
 * another vCPU has a fault fixed on it, and both gfns share a page of the host.
 *
 * Two memslots have the same memory.  One vCPU, the writer, writes the page over and
 * over.  In each round, the host reads the dirty log, whereupon the writer faults, and
 * has another vCPU re-point the PTE to the other memslot's gfn, execute INVLPG, and read
 * the page, i.e. the SPTE is dropped and created again with the same pfn.  The host then
 * reads the other memslot's log, and the writer executes INVLPG, too.  What it writes from
 * then on must be in that log.
 *
 * INVLPG waits for the writer's fault, unless KVM defers TLB flushes: the test has it do
 * so, if it can.
 *
 * This is about shadow paging; with TDP, gfns have SPTEs of their own.  What can't be
 * tested: that all interleavings were seen.  How many faults were fixed fast is reported.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <linux/sizes.h>

#include "kvm_param.h"
#include "kvm_util.h"
#include "pin_util.h"
#include "processor.h"
#include "run_until.h"
#include "test_util.h"
#include "ucall_common.h"

#define SLOT_A		10
#define SLOT_B		11
#define GPA_A		((gpa_t)SZ_4G)
#define GPA_B		((gpa_t)SZ_4G + SZ_1G)
#define TEST_GVA	0xc0000000ul
#define PTE_GVA		0xd0000000ul
#define NR_ROUNDS	500

/* Set by the host: where the guest finds the PTE, and what to write to it. */
static u64 *guest_pte;
static u64 guest_ptes[2];

/* From the host to the writer: how often to have flushed the TLB. */
static u64 flushes;
static u64 flushes_done;
static u64 stop;

static u64 *guest_mem = (u64 *)TEST_GVA;

static void changer_code(void)
{
	u64 nr;

	for (nr = 1;; nr++) {
		WRITE_ONCE(*guest_pte, guest_ptes[nr % 2]);
		invlpg(TEST_GVA);
		READ_ONCE(*guest_mem);
		GUEST_SYNC(nr);
	}
}

static void writer_code(void)
{
	u64 value = 0, nr = 0;

	while (!READ_ONCE(stop)) {
		WRITE_ONCE(*guest_mem, ++value);
		if (READ_ONCE(flushes) == nr)
			continue;

		nr++;
		invlpg(TEST_GVA);
		WRITE_ONCE(flushes_done, nr);
	}
	GUEST_DONE();
}

/* What the guest has in a variable, in the host's mapping. */
#define shared(vm, var)		((u64 *)addr_gva2hva(vm, (gva_t)&(var)))

static void *run_writer(void *vcpu)
{
	run_until(vcpu, UCALL_DONE);
	return NULL;
}

/* The log is read, i.e. also cleared. */
static bool is_dirty(struct kvm_vm *vm, u32 slot)
{
	unsigned long bitmap[1] = {};

	kvm_vm_get_dirty_log(vm, slot, bitmap);
	return bitmap[0];
}

/* A vCPU writes first, and marks the gfn then: it may have lost its CPU in between. */
static bool gets_dirty(struct kvm_vm *vm, u32 slot)
{
	struct timespec start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		if (is_dirty(vm, slot))
			return true;
	} while (timespec_to_ns(timespec_elapsed(start)) < 10 * NSEC_PER_SEC);
	return false;
}

static u64 *map_memory(int fd)
{
	return kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
}

int main(void)
{
	struct kvm_vcpu *changer, *writer;
	pthread_t thread;
	u64 *pte, *mem, nr;
	bool lost = false;
	struct kvm_vm *vm;
	int fd;

	TEST_REQUIRE(!kvm_is_tdp_enabled());
	stop_numa_balancing();

	vm = __vm_create(VM_SHAPE_DEFAULT, 2, 0);
	changer = vm_vcpu_add(vm, 0, changer_code);
	writer = vm_vcpu_add(vm, 1, writer_code);
	kvm_arch_vm_finalize_vcpus(vm);

	fd = kvm_memfd_alloc(PAGE_SIZE, false);
	mem = map_memory(fd);
	vm_set_user_memory_region(vm, SLOT_A, KVM_MEM_LOG_DIRTY_PAGES, GPA_A, PAGE_SIZE,
				  map_memory(fd));
	vm_set_user_memory_region(vm, SLOT_B, KVM_MEM_LOG_DIRTY_PAGES, GPA_B, PAGE_SIZE,
				  map_memory(fd));

	virt_map(vm, TEST_GVA, GPA_A, 1);
	pte = vm_get_pte(vm, TEST_GVA);
	/* KVM need not write-protect the page for the guest's own dirty bit. */
	*pte |= PTE_ACCESSED_MASK(&vm->mmu) | PTE_DIRTY_MASK(&vm->mmu);
	virt_map(vm, PTE_GVA, align_down(addr_hva2gpa(vm, pte), PAGE_SIZE), 1);
	guest_pte = (u64 *)(PTE_GVA + (unsigned long)pte % PAGE_SIZE);
	guest_ptes[0] = *pte;
	guest_ptes[1] = (*pte & ~PHYSICAL_PAGE_MASK) | GPA_B;
	sync_global_to_guest(vm, guest_pte);
	sync_global_to_guest(vm, guest_ptes);

	if (can_set_kvm_param("defer_tlb_flush"))
		set_kvm_param(true);
	kvm_pthread_create(&thread, NULL, run_writer, writer);

	for (nr = 1; nr <= NR_ROUNDS && !lost; nr++) {
		u32 from = nr % 2 ? SLOT_A : SLOT_B, to = nr % 2 ? SLOT_B : SLOT_A;
		u64 value;

		is_dirty(vm, from);
		run_until(changer, UCALL_SYNC);
		is_dirty(vm, to);
		WRITE_ONCE(*shared(vm, flushes), nr);
		while (READ_ONCE(*shared(vm, flushes_done)) != nr)
			cpu_relax();

		value = READ_ONCE(*mem);
		while (READ_ONCE(*mem) == value)
			cpu_relax();
		lost = !gets_dirty(vm, to);
	}

	WRITE_ONCE(*shared(vm, stop), 1);
	kvm_pthread_join(thread, NULL);

	printf("rounds=%lu\n", nr - 1);
	printf("fixed_fast=%lu\n", vcpu_get_stat(writer, pf_fast));
	TEST_ASSERT(!lost, "Writes to a gfn are not in its log, in round %lu of %d", nr - 1,
		    NR_ROUNDS);

	kvm_vm_free(vm);
	return 0;
}
