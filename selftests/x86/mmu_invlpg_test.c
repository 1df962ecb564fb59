// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that INVLPG does what the architecture says, as do INVPCID, if there is one, and
 * loading CR3, and that INVLPG doesn't take mmu_lock if there is nothing to do.
 *
 * A vCPU re-points a PTE, flushes its TLB in one of these ways, and finds the new page at
 * once; another vCPU finds it, too, once it was told to flush its TLB, and has.  Likewise,
 * neither of them can write a page whose PTE was made read-only.  Then, one vCPU executes
 * INVLPG with page tables that nobody changes: none of them takes mmu_lock, which
 * /proc/lock_stat tells if the kernel has CONFIG_LOCK_STAT.
 *
 * All of this is done once more with KVM deferring remote TLB flushes, if it can.
 *
 * With TDP, KVM doesn't intercept INVLPG, i.e. the test is about shadow paging.
 *
 * What can't be tested: that a TLB isn't flushed too often, and, on an emulated machine,
 * that it is flushed at all, as that may have no TLB that survives an exit.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/sizes.h>

#include "kvm_param.h"
#include "kvm_util.h"
#include "lock_stat.h"
#include "pin_util.h"
#include "processor.h"
#include "run_until.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GPA	((gpa_t)SZ_4G)
#define TEST_GVA	0xc0000000ul
#define PTE_GVA		0xd0000000ul
/* For each way to flush a TLB. */
#define NR_CHANGES	400
#define NR_INVLPGS	1000

enum flush {
	INVLPG,
	CR3,
	INVPCID,
	NR_FLUSHES,
};

/* Set by the host: where the guest finds the PTE, and what to put there, see check(). */
static u64 *guest_pte;
static u64 guest_ptes[4];
static bool has_invpcid;

/* Between the vCPUs: the change to be seen, and the last one that was. */
static u64 changes;
static u64 seen;

static u64 *guest_mem = (u64 *)TEST_GVA;

static void flush_tlb(enum flush how)
{
	struct {
		u64 pcid, addr;
	} desc = { 0, TEST_GVA };

	switch (how) {
	case INVLPG:
		invlpg(TEST_GVA);
		break;
	case CR3:
		set_cr3(get_cr3());
		break;
	default:
		asm volatile("invpcid %0, %1" : : "m"(desc), "r"(0ul) : "memory");
	}
}

/*
 * Every other change is of the page, all are of whether it is writable.  The page has its
 * number in its first word, the second word is there to be written.
 */
static void check(u64 change)
{
	u8 vector;

	GUEST_ASSERT_EQ(READ_ONCE(*guest_mem), change / 2 % 2);
	vector = kvm_asm_safe("movq %%rax, (%[addr])", [addr] "r"(guest_mem + 1));
	GUEST_ASSERT_EQ(vector, change % 2 ? PF_VECTOR : 0);
}

static bool skips(enum flush how)
{
	return how == INVPCID && !has_invpcid;
}

static void changer_code(void)
{
	u64 change = 0, i, try;
	enum flush how;

	/* The supervisor must heed read-only PTEs. */
	set_cr0(get_cr0() | X86_CR0_WP);
	for (how = 0; how < NR_FLUSHES; how++) {
		for (i = 0; i < NR_CHANGES && !skips(how); i++) {
			WRITE_ONCE(*guest_pte, guest_ptes[++change % 4]);
			flush_tlb(how);
			check(change);

			WRITE_ONCE(changes, change);
			while (READ_ONCE(seen) != change)
				cpu_relax();
		}
	}

	/* Synchronizes what is out of sync, and nobody changes anything from now on. */
	set_cr3(get_cr3());
	check(change);
	GUEST_SYNC(1);
	for (try = 0; try < MMU_LOCK_TRIES; try++) {
		for (i = 0; i < NR_INVLPGS; i++)
			invlpg(TEST_GVA);
		GUEST_SYNC(2);
	}

	/* Something to do, so that it is known to be counted. */
	WRITE_ONCE(*guest_pte, guest_ptes[++change % 4]);
	invlpg(TEST_GVA);
	check(change);
	GUEST_SYNC(3);
	GUEST_DONE();
}

static void checker_code(void)
{
	u64 change = 0, i;
	enum flush how;

	set_cr0(get_cr0() | X86_CR0_WP);
	for (how = 0; how < NR_FLUSHES; how++) {
		for (i = 0; i < NR_CHANGES && !skips(how); i++) {
			change++;
			while (READ_ONCE(changes) != change)
				cpu_relax();
			flush_tlb(how);
			check(change);
			WRITE_ONCE(seen, change);
		}
	}
	GUEST_DONE();
}

static void *checker(void *vcpu)
{
	run_until(vcpu, UCALL_DONE);
	return NULL;
}

static u64 write_locks(void)
{
	return lock_stat_usable() ? read_mmu_lock_counts().writes : 0;
}

static void run_test(bool defer)
{
	void *codes[] = { changer_code, checker_code };
	struct kvm_vcpu *vcpus[2];
	u64 locks, idle = -1, busy, invlpgs, *pte;
	pthread_t thread;
	struct kvm_vm *vm;
	int i;

	vm = __vm_create(VM_SHAPE_DEFAULT, 2, 0);
	vcpus[0] = vm_vcpu_add(vm, 0, codes[0]);
	vcpus[1] = vm_vcpu_add(vm, 1, codes[1]);
	kvm_arch_vm_finalize_vcpus(vm);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, 2, 0);
	*(u64 *)addr_gpa2hva(vm, TEST_GPA + PAGE_SIZE) = 1;

	virt_map(vm, TEST_GVA, TEST_GPA, 2);
	pte = vm_get_pte(vm, TEST_GVA);
	virt_map(vm, PTE_GVA, align_down(addr_hva2gpa(vm, pte), PAGE_SIZE), 1);
	guest_pte = (u64 *)(PTE_GVA + (unsigned long)pte % PAGE_SIZE);
	for (i = 0; i < 4; i++) {
		guest_ptes[i] = *vm_get_pte(vm, TEST_GVA + i / 2 * PAGE_SIZE);
		if (i % 2)
			guest_ptes[i] &= ~PTE_WRITABLE_MASK(&vm->mmu);
	}
	sync_global_to_guest(vm, guest_pte);
	sync_global_to_guest(vm, guest_ptes);
	has_invpcid = kvm_cpu_has(X86_FEATURE_INVPCID);
	sync_global_to_guest(vm, has_invpcid);

	kvm_pthread_create(&thread, NULL, checker, vcpus[1]);
	run_until(vcpus[0], UCALL_SYNC);
	kvm_pthread_join(thread, NULL);

	for (i = 0; i < MMU_LOCK_TRIES; i++) {
		locks = write_locks();
		invlpgs = vcpu_get_stat(vcpus[0], invlpg);
		run_until(vcpus[0], UCALL_SYNC);
		invlpgs = vcpu_get_stat(vcpus[0], invlpg) - invlpgs;
		idle = min(idle, write_locks() - locks);
	}

	locks = write_locks();
	run_until(vcpus[0], UCALL_SYNC);
	busy = write_locks() - locks;
	run_until(vcpus[0], UCALL_DONE);

	printf("defer=%d invpcid=%d invlpgs=%lu\n", defer, has_invpcid, invlpgs);
	if (!lock_stat_usable()) {
		pr_info("Nothing in " LOCK_STAT ", locks can't be counted\n");
	} else if (invlpgs) {
		printf("defer=%d write_locks=%lu\n", defer, idle);
		printf("defer=%d write_locks_when_out_of_sync=%lu\n", defer, busy);
		TEST_ASSERT(busy, "Synchronizing takes mmu_lock, but that isn't counted");
		TEST_ASSERT(!idle, "%lu INVLPGs took mmu_lock %lu times", invlpgs, idle);
	}
	TEST_ASSERT(kvm_is_tdp_enabled() || invlpgs == NR_INVLPGS, "%lu of %d INVLPGs intercepted",
		    invlpgs, NR_INVLPGS);

	kvm_vm_free(vm);
}

int main(void)
{
	stop_numa_balancing();
	if (!can_set_kvm_param("defer_tlb_flush")) {
		run_test(false);
		return 0;
	}

	set_kvm_param(false);
	run_test(false);
	set_kvm_param(true);
	run_test(true);
	return 0;
}
