// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that L1's flush of its own nested guest's TLB isn't lost while another of L1's vCPUs
 * writes the same page table.
 *
 * Two vCPUs of L1 write to one of L1's page tables for L2.  KVM has it write-protected, and both
 * take a fault, which the TDP MMU handles with mmu_lock held for read: the first one has KVM note
 * that its shadow page is out of sync, and that its parents have such a child, the other one
 * sees that, and goes on.  It re-points the PTE of a page, flushes, and enters L2, which must find
 * the new page.
 *
 * With shadow paging alone, there is no TDP for L2; KVM itself holds mmu_lock for write there.
 *
 * A lost flush takes that the second vCPU gets through within what KVM does to note it for the
 * first one.  It waits for a random part of the time that the first one needed in the round before.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "nested_x86.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GPA	((gpa_t)SZ_4G)
#define TEST_GVA	0xc0000000ul
#define L2_GPA		((gpa_t)SZ_4G * 2)
#define PTE_GVA		0xd0000000ul
#define PTE_IGNORED	BIT_ULL(11)
#define NR_ROUNDS	400

/* The first page's PTE is written, the second one's is re-pointed to the second or third page. */
static u64 *guest_ptes;
static u64 targets[2];

/* Between the vCPUs: the round that may begin, in which the writer faults, and has. */
static u64 todo, writing, written;
static u64 write_ticks;
/* TSCs may differ, and the vCPU may move. */
#define MAX_WRITE_TICKS	100000000ul
static bool stop;
/* What L2 found. */
static u64 found;

static void l2_code(u32 unused)
{
	for (;;) {
		WRITE_ONCE(found, READ_ONCE(*(u64 *)(TEST_GVA + PAGE_SIZE)));
		vmcall();
	}
}

static void writer_code(void)
{
	u64 nr, start;

	for (nr = 1; nr <= NR_ROUNDS; nr++) {
		while (READ_ONCE(todo) != nr) {
			if (READ_ONCE(stop))
				GUEST_DONE();
			cpu_relax();
		}
		WRITE_ONCE(writing, nr);
		start = rdtsc();
		WRITE_ONCE(guest_ptes[0], READ_ONCE(guest_ptes[0]) ^ PTE_IGNORED);
		WRITE_ONCE(write_ticks, rdtsc() - start);
		WRITE_ONCE(written, nr);
	}
	GUEST_DONE();
}

/* Enter L2, which flushes all that its TLB has, and come back by its VMCALL. */
static void run_l2(void *nested, bool first)
{
	if (this_cpu_has(X86_FEATURE_VMX)) {
		struct vmx_pages *vmx = nested;
		struct { u64 eptp, reserved; } desc = {};

		if (first) {
			GUEST_ASSERT(prepare_for_vmx_operation(vmx));
			GUEST_ASSERT(load_vmcs(vmx));
			set_l2_call(vmx->stack, l2_code, 0);
			prepare_vmcs(vmx, l2_entry);
			GUEST_ASSERT(!vmlaunch());
		} else {
			/* All contexts. */
			asm volatile("invept %0, %1" : : "m"(desc), "r"(2ul) : "memory");
			GUEST_ASSERT(!vmresume());
		}
		GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
		vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) + vmreadz(VM_EXIT_INSTRUCTION_LEN));
	} else {
		struct svm_test_data *svm = nested;

		if (first) {
			set_l2_call(svm->stack, l2_code, 0);
			generic_svm_setup(svm, l2_entry);
		}
		svm->vmcb->control.tlb_ctl = TLB_CONTROL_FLUSH_ASID;
		run_guest(svm->vmcb, svm->vmcb_gpa);
		GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_VMMCALL);
		svm->vmcb->save.rip += 3;
	}
}

static void flusher_code(void *nested)
{
	u64 nr, until, seed = 1, stale = 0;

	for (nr = 1; nr <= NR_ROUNDS && !stale; nr++) {
		/* Have KVM synchronize, and write-protect, what the last round left. */
		run_l2(nested, nr == 1);

		WRITE_ONCE(todo, nr);
		while (READ_ONCE(writing) != nr)
			cpu_relax();
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		until = rdtsc() + (seed >> 33) % (min_t(u64, READ_ONCE(write_ticks),
							MAX_WRITE_TICKS) + 1);
		while (rdtsc() < until)
			;

		WRITE_ONCE(guest_ptes[1], targets[nr % 2]);
		run_l2(nested, false);
		if (READ_ONCE(found) != nr % 2)
			stale = nr;
		while (READ_ONCE(written) != nr)
			cpu_relax();
	}
	WRITE_ONCE(stop, true);
	GUEST_SYNC(stale);
	GUEST_DONE();
}

static void *run_writer(void *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	if (get_ucall(vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT_EQ(uc.cmd, UCALL_DONE);
	return NULL;
}

int main(int argc, char *argv[])
{
	struct kvm_vcpu *writer, *flusher;
	struct kvm_vm *vm;
	pthread_t thread;
	struct ucall uc;
	u64 *ptes;
	int opt;

	while ((opt = getopt(argc, argv, "h")) != -1) {
		printf("usage: %s\n", argv[0]);
		exit(opt == 'h' ? 0 : 1);
	}

	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX) || kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_cpu_has_tdp());

	vm = __vm_create(VM_SHAPE_DEFAULT, 2, 512);
	writer = vm_vcpu_add(vm, 0, writer_code);
	flusher = vm_vcpu_add(vm, 1, flusher_code);
	kvm_arch_vm_finalize_vcpus(vm);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, 3, 0);
	*(u64 *)addr_gpa2hva(vm, TEST_GPA + 2 * PAGE_SIZE) = 1;

	vm_enable_tdp(vm);
	vcpu_args_set(flusher, 1, vcpu_alloc_nested(vm));
	tdp_map(vm, L2_GPA, TEST_GPA, 3 * PAGE_SIZE);
	/* For L2, which has L1's page tables; its own L1 page tables are one page. */
	virt_map(vm, TEST_GVA, L2_GPA, 3);
	ptes = tdp_get_pte(vm, L2_GPA);
	targets[0] = ptes[1];
	targets[1] = ptes[2];
	virt_map(vm, PTE_GVA, addr_hva2gpa(vm, ptes), 1);
	guest_ptes = (u64 *)PTE_GVA;
	tdp_identity_map_default_memslots(vm);
	sync_global_to_guest(vm, targets);
	sync_global_to_guest(vm, guest_ptes);

	kvm_pthread_create(&thread, NULL, run_writer, writer);
	vcpu_run(flusher);
	switch (get_ucall(flusher, &uc)) {
	case UCALL_SYNC:
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
		break;
	default:
		TEST_FAIL("Unexpected exit, %s", exit_reason_str(flusher->run->exit_reason));
	}
	kvm_pthread_join(thread, NULL);
	TEST_ASSERT(!uc.args[1], "L1's flush was lost, in round %lu of %d",
		    (unsigned long)uc.args[1], NR_ROUNDS);
	printf("none lost in %d rounds\n", NR_ROUNDS);
	kvm_vm_free(vm);
	return 0;
}
