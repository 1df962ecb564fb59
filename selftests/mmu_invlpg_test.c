// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that INVLPG does what the architecture says, and doesn't take mmu_lock if
 * there is nothing to do.
 *
 * A vCPU re-points a PTE, executes INVLPG, and finds the new page at once; another vCPU
 * finds it, too, once it was told to flush its TLB, and has.  Then, one vCPU executes
 * INVLPG with page tables that nobody changes: none of them takes mmu_lock, which
 * /proc/lock_stat tells if the kernel has CONFIG_LOCK_STAT.
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

#include "kvm_util.h"
#include "lock_stat.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GPA	((gpa_t)SZ_4G)
#define TEST_GVA	0xc0000000ul
#define PTE_GVA		0xd0000000ul
#define NR_CHANGES	1000
#define NR_INVLPGS	1000

/* Set by the host: where the guest finds the PTE, and what to put there. */
static u64 *guest_pte;
static u64 guest_ptes[2];

/* Between the vCPUs: the change to be seen, and the last one that was. */
static u64 changes;
static u64 seen;

static u64 *guest_mem = (u64 *)TEST_GVA;

/* The page's number, which the host wrote there. */
static void check(u64 change)
{
	GUEST_ASSERT_EQ(READ_ONCE(*guest_mem), change % 2);
}

static void changer_code(void)
{
	u64 change, i;

	for (change = 1; change <= NR_CHANGES; change++) {
		WRITE_ONCE(*guest_pte, guest_ptes[change % 2]);
		invlpg(TEST_GVA);
		check(change);

		WRITE_ONCE(changes, change);
		while (READ_ONCE(seen) != change)
			cpu_relax();
	}

	/* Synchronizes what is out of sync, and nobody changes anything from now on. */
	set_cr3(get_cr3());
	check(NR_CHANGES);
	GUEST_SYNC(1);
	for (i = 0; i < NR_INVLPGS; i++)
		invlpg(TEST_GVA);
	GUEST_SYNC(2);

	/* Something to do, so that it is known to be counted. */
	WRITE_ONCE(*guest_pte, guest_ptes[1]);
	invlpg(TEST_GVA);
	check(1);
	GUEST_SYNC(3);
	GUEST_DONE();
}

static void checker_code(void)
{
	u64 change;

	for (change = 1; change <= NR_CHANGES; change++) {
		while (READ_ONCE(changes) != change)
			cpu_relax();
		invlpg(TEST_GVA);
		check(change);
		WRITE_ONCE(seen, change);
	}
	GUEST_DONE();
}

static void run(struct kvm_vcpu *vcpu, u64 cmd)
{
	struct ucall uc;
	u64 got;

	vcpu_run(vcpu);
	got = get_ucall(vcpu, &uc);
	if (got == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT(got == cmd, "Unexpected exit: %s", exit_reason_str(vcpu->run->exit_reason));
}

static void *checker(void *vcpu)
{
	run(vcpu, UCALL_DONE);
	return NULL;
}

static u64 write_locks(void)
{
	return lock_stat_usable() ? read_mmu_lock_counts().writes : 0;
}

int main(void)
{
	void *codes[] = { changer_code, checker_code };
	struct kvm_vcpu *vcpus[2];
	u64 locks, idle, busy, invlpgs, *pte;
	pthread_t thread;
	struct kvm_vm *vm;

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
	guest_ptes[0] = *pte;
	guest_ptes[1] = *vm_get_pte(vm, TEST_GVA + PAGE_SIZE);
	sync_global_to_guest(vm, guest_pte);
	sync_global_to_guest(vm, guest_ptes);

	kvm_pthread_create(&thread, NULL, checker, vcpus[1]);
	run(vcpus[0], UCALL_SYNC);
	kvm_pthread_join(thread, NULL);

	locks = write_locks();
	invlpgs = vcpu_get_stat(vcpus[0], invlpg);
	run(vcpus[0], UCALL_SYNC);
	invlpgs = vcpu_get_stat(vcpus[0], invlpg) - invlpgs;
	idle = write_locks() - locks;

	locks = write_locks();
	run(vcpus[0], UCALL_SYNC);
	busy = write_locks() - locks;
	run(vcpus[0], UCALL_DONE);

	printf("invlpgs=%lu write_locks=%lu write_locks_when_out_of_sync=%lu\n", invlpgs, idle,
	       busy);
	if (!lock_stat_usable()) {
		print_skip("No " LOCK_STAT ", locks can't be counted");
	} else if (invlpgs) {
		TEST_ASSERT(busy, "Synchronizing takes mmu_lock, but that isn't counted");
		TEST_ASSERT(!idle, "%lu INVLPGs took mmu_lock %lu times", invlpgs, idle);
	}
	TEST_ASSERT(kvm_is_tdp_enabled() || invlpgs == NR_INVLPGS, "%lu of %d INVLPGs intercepted",
		    invlpgs, NR_INVLPGS);

	kvm_vm_free(vm);
	return 0;
}
