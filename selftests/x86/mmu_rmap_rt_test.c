// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that aging doesn't hang if it preempts a vCPU on its CPU, wherever that is.
 *
 * With PREEMPT_RT, a vCPU that handles a page fault can be preempted while it has an rmap
 * locked.  A thread of real-time priority on the same CPU marks pages as idle, at random
 * times, which looks for the Accessed bits of their SPTEs, in their rmaps, and must not spin on
 * a lock that only the vCPU can release.
 *
 * With shadow paging, as the guest has each page mapped many times: an rmap is locked to
 * add an SPTE to it only if it isn't empty.  On other kernels, there is nothing to find.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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
#define NR_PAGES	16
#define NR_ALIASES	8
#define NR_ROUNDS	2000

static void *test_mem;
static bool guest_stop;
static bool *stop;
static int test_cpu;

static void guest_code(void)
{
	u64 i;

	while (!READ_ONCE(guest_stop)) {
		for (i = 0; i < NR_PAGES * NR_ALIASES; i++)
			WRITE_ONCE(*(u64 *)(TEST_GVA + i * PAGE_SIZE), i);
	}
	GUEST_DONE();
}

static void *run_vcpu(void *vcpu)
{
	struct ucall uc;

	pin_self_to_cpu(test_cpu);
	vcpu_run(vcpu);
	if (get_ucall(vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT_EQ(uc.cmd, UCALL_DONE);
	return NULL;
}

/* It has the CPU to itself for as long as it runs: sleep for longer than that. */
static void *age(void *arg)
{
	struct kvm_random_state rng = new_kvm_random_state(1);
	int fd = open_page_idle(), round;
	struct timespec ts = {};
	u64 pfns[NR_PAGES], page;

	pin_self_to_cpu(test_cpu);
	for (round = 0; round < NR_ROUNDS; round++) {
		/* Zap, so that the vCPU has something to do, and leave pages where they are. */
		TEST_ASSERT(!mprotect(test_mem, NR_PAGES * PAGE_SIZE, PROT_READ) &&
			    !mprotect(test_mem, NR_PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE),
			    "mprotect: %s", strerror(errno));

		ts.tv_nsec = kvm_random_u32(&rng) % 1000000;
		clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);

		if (!__look_up_pfns(test_mem, PAGE_SIZE, NR_PAGES, pfns))
			continue;
		for (page = 0; page < NR_PAGES; page++)
			write_page_idle(fd, pfns[page] / PAGE_IDLE_BITS,
					BIT_ULL(pfns[page] % PAGE_IDLE_BITS));
	}
	close(fd);
	return NULL;
}

int main(void)
{
	u64 pfns[NR_PAGES], alias;
	pthread_t vcpu_thread, age_thread;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	bool started;

	TEST_REQUIRE(!kvm_is_tdp_enabled());
	close(open_page_idle());
	test_cpu = sched_getcpu();

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, NR_PAGES, 0);
	test_mem = addr_gpa2hva(vm, TEST_GPA);
	memset(test_mem, 1, NR_PAGES * PAGE_SIZE);
	for (alias = 0; alias < NR_ALIASES; alias++)
		virt_map(vm, TEST_GVA + alias * NR_PAGES * PAGE_SIZE, TEST_GPA, NR_PAGES);
	look_up_pfns(test_mem, PAGE_SIZE, NR_PAGES, pfns);
	stop = addr_gva2hva(vm, (gva_t)&guest_stop);

	kvm_pthread_create(&vcpu_thread, NULL, run_vcpu, vcpu);
	started = start_real_time(&age_thread, age, NULL);
	if (started)
		kvm_pthread_join(age_thread, NULL);
	WRITE_ONCE(*stop, true);
	kvm_pthread_join(vcpu_thread, NULL);
	kvm_vm_free(vm);

	__TEST_REQUIRE(started, "No privilege to have a thread of real-time priority");
	return 0;
}
