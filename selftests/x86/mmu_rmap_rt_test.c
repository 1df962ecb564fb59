// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that neither aging nor harvesting the dirty log hangs if it preempts a vCPU on its
 * CPU, wherever that is.
 *
 * With PREEMPT_RT, a vCPU that handles a page fault, or an INVLPG, can be preempted while it
 * has an rmap locked.  A thread of real-time priority on the same CPU marks a page as idle, or
 * gets the dirty log, at random times.  Both look for the page's SPTEs, in its rmap, and
 * must not spin on a lock that only the vCPU can release.
 *
 * With shadow paging, the guest maps the page almost as often as KVM has it, and then goes on
 * to unmap and map it: KVM walks the rmap for the SPTE that it removes, i.e. has it locked for
 * much of the time.  On other kernels, there is nothing to find.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "page_idle.h"
#include "processor.h"
#include "real_time.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GPA	((gpa_t)SZ_4G)
#define TEST_GVA	0xc0000000ul
#define PTE_GVA		0xd0000000ul
/* KVM starts anew with an rmap of more than 1000. */
#define NR_ALIASES	900
#define NR_ROUNDS	400

static void *test_mem;
static bool guest_stop;
static bool *stop;
static int test_cpu;

static void guest_code(void)
{
	u64 *ptes = (u64 *)PTE_GVA, i, pte;

	for (i = 0; i < NR_ALIASES; i++)
		WRITE_ONCE(*(u64 *)(TEST_GVA + i * PAGE_SIZE), i);
	GUEST_SYNC(0);

	for (i = 0; !READ_ONCE(guest_stop); i = (i + 1) % NR_ALIASES) {
		pte = READ_ONCE(ptes[i]);
		WRITE_ONCE(ptes[i], 0);
		invlpg(TEST_GVA + i * PAGE_SIZE);
		WRITE_ONCE(ptes[i], pte);
		WRITE_ONCE(*(u64 *)(TEST_GVA + i * PAGE_SIZE), i);
	}
	GUEST_DONE();
}

static void run_vcpu(struct kvm_vcpu *vcpu, u64 expected)
{
	struct ucall uc;

	vcpu_run(vcpu);
	if (get_ucall(vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT_EQ(uc.cmd, expected);
}

static void *vcpu_thread(void *vcpu)
{
	pin_self_to_cpu(test_cpu);
	run_vcpu(vcpu, UCALL_DONE);
	return NULL;
}

/* It has the CPU to itself for as long as it runs: sleep in between, so that the vCPU runs, too. */
static void *real_time_thread(void *arg)
{
	struct kvm_random_state rng = new_kvm_random_state(1);
	int fd = open_page_idle(), round;
	unsigned long bitmap = 0;
	struct kvm_vm *vm = arg;
	struct timespec ts = {};
	u64 pfn;

	pin_self_to_cpu(test_cpu);
	for (round = 0; round < NR_ROUNDS; round++) {
		ts.tv_nsec = kvm_random_u32(&rng) % 1000000;
		clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);

		if (round % 2)
			kvm_vm_get_dirty_log(vm, TEST_SLOT, &bitmap);
		else if (__look_up_pfns(test_mem, PAGE_SIZE, 1, &pfn))
			write_page_idle(fd, pfn / PAGE_IDLE_BITS, BIT_ULL(pfn % PAGE_IDLE_BITS));
	}
	close(fd);
	return NULL;
}

int main(void)
{
	pthread_t vcpu_pthread, rt_pthread;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	bool started;
	u64 pfn, i;

	TEST_REQUIRE(!kvm_is_tdp_enabled());
	close(open_page_idle());
	test_cpu = sched_getcpu();

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, 1,
				    KVM_MEM_LOG_DIRTY_PAGES);
	test_mem = addr_gpa2hva(vm, TEST_GPA);
	memset(test_mem, 1, PAGE_SIZE);
	look_up_pfns(test_mem, PAGE_SIZE, 1, &pfn);

	for (i = 0; i < NR_ALIASES; i++)
		virt_map(vm, TEST_GVA + i * PAGE_SIZE, TEST_GPA, 1);
	for (i = 0; i < NR_ALIASES; i += PTES_PER_MIN_PAGE)
		virt_map(vm, PTE_GVA + i / PTES_PER_MIN_PAGE * PAGE_SIZE,
			 addr_hva2gpa(vm, vm_get_pte(vm, TEST_GVA + i * PAGE_SIZE)), 1);
	stop = addr_gva2hva(vm, (gva_t)&guest_stop);

	run_vcpu(vcpu, UCALL_SYNC);
	kvm_pthread_create(&vcpu_pthread, NULL, vcpu_thread, vcpu);
	started = start_real_time(&rt_pthread, real_time_thread, vm);
	if (started)
		kvm_pthread_join(rt_pthread, NULL);
	WRITE_ONCE(*stop, true);
	kvm_pthread_join(vcpu_pthread, NULL);
	kvm_vm_free(vm);

	__TEST_REQUIRE(started, "No privilege to have a thread of real-time priority");
	return 0;
}
