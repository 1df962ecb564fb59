// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that KVM flushes TLBs before it drops mmu_lock while it unmaps a range of memory that is
 * in two memslots.
 *
 * The first memslot has one page that KVM maps.  The second one has none, but thousands of page
 * tables, i.e. KVM takes a while to go through them, and drops mmu_lock if somebody wants it.
 * This test wants it as soon as the first memslot's page isn't mapped any more.  Whoever is given
 * mmu_lock then takes it that no TLB has the page, so somebody must have requested a flush.
 */
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#define FIRST_SLOT	10
#define SECOND_SLOT	11
#define OTHER_SLOT	12

#define FIRST_GPA	((gpa_t)SZ_4G)
#define FIRST_SIZE	SZ_2M
#define SECOND_GPA	(FIRST_GPA + FIRST_SIZE)
#define SECOND_SIZE	((size_t)SZ_4G)
#define OTHER_GPA	((gpa_t)SZ_2G)

#define NR_ROUNDS	20

static u64 unmapping;

static void *map_memory(size_t size)
{
	void *mem;

	mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	TEST_ASSERT(mem != MAP_FAILED, "mmap() failed");
	madvise(mem, size, MADV_NOHUGEPAGE);
	return mem;
}

static void pre_fault(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	struct kvm_pre_fault_memory range = {
		.gpa = gpa,
		.size = PAGE_SIZE,
	};
	int r;

	do {
		r = __vcpu_ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range);
	} while (r && errno == EINTR);
	TEST_ASSERT(!r, KVM_IOCTL_ERROR(KVM_PRE_FAULT_MEMORY, r));
}

static void *unmap(void *mem)
{
	TEST_ASSERT(!madvise(mem, FIRST_SIZE + SECOND_SIZE, MADV_DONTNEED), "madvise() failed");
	WRITE_ONCE(unmapping, 0);
	return NULL;
}

int main(void)
{
	struct kvm_vcpu *vcpu;
	u64 pages, flushes;
	pthread_t thread;
	struct kvm_vm *vm;
	void *mem, *other;
	gpa_t gpa;
	int i;

	TEST_REQUIRE(kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY));

	vm = vm_create_with_one_vcpu(&vcpu, NULL);

	/* One mapping, i.e. one call of the MMU notifier, for the first two. */
	mem = map_memory(FIRST_SIZE + SECOND_SIZE);
	vm_set_user_memory_region(vm, FIRST_SLOT, 0, FIRST_GPA, FIRST_SIZE, mem);
	vm_set_user_memory_region(vm, SECOND_SLOT, 0, SECOND_GPA, SECOND_SIZE, mem + FIRST_SIZE);
	other = map_memory(NR_ROUNDS * PAGE_SIZE);
	vm_set_user_memory_region(vm, OTHER_SLOT, 0, OTHER_GPA, NR_ROUNDS * PAGE_SIZE, other);

	/* Page tables stay when the pages that they map are gone. */
	for (gpa = SECOND_GPA; gpa < SECOND_GPA + SECOND_SIZE; gpa += SZ_2M)
		pre_fault(vcpu, gpa);
	TEST_ASSERT(!madvise(mem, FIRST_SIZE + SECOND_SIZE, MADV_DONTNEED), "madvise() failed");

	for (i = 0; i < NR_ROUNDS; i++) {
		pre_fault(vcpu, FIRST_GPA);
		/* In this order: what others unmap in between must count for both. */
		flushes = vm_get_stat(vm, remote_tlb_flush_requests);
		pages = vm_get_stat(vm, pages_4k);

		WRITE_ONCE(unmapping, 1);
		kvm_pthread_create(&thread, NULL, unmap, mem);
		while (vm_get_stat(vm, pages_4k) >= pages && READ_ONCE(unmapping))
			;

		/* Takes mmu_lock, as the page isn't mapped yet. */
		pre_fault(vcpu, OTHER_GPA + i * PAGE_SIZE);
		TEST_ASSERT(vm_get_stat(vm, remote_tlb_flush_requests) > flushes,
			    "Round %d: KVM has unmapped a page and dropped mmu_lock, but requested no TLB flush",
			    i);
		kvm_pthread_join(thread, NULL);
	}

	munmap(other, NR_ROUNDS * PAGE_SIZE);
	munmap(mem, FIRST_SIZE + SECOND_SIZE);
	kvm_vm_free(vm);
	return 0;
}
