// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that dirty logging doesn't take mmu_lock for write, and flushes TLBs once
 * per call that reaps something.
 *
 * Get, clear and reset the dirty log of a VM that does nothing else, switch logging
 * on, and count how often KVM's mmu_lock is taken by each of the ioctls, according
 * to /proc/lock_stat, i.e. the test needs CONFIG_LOCK_STAT, and needs to be alone
 * with its VM: the counts are those of all VMs.
 *
 * What can't be tested: that logging works, which is what dirty_log_test and
 * dirty_log_mirror_test are for.  How long the lock is held says nothing on a kernel
 * that checks locks.  TLB flushes on arm64, where flushing a range isn't counted.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <asm/barrier.h>
#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "eager_split.h"
#include "kvm_util.h"
#include "lock_stat.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GVA	0xc0000000ul
#define TEST_GPA	SZ_4G
#define TEST_SIZE	SZ_8M
#define RING_ENTRIES	4096

/* Shared with the guest. */
static u64 page_size;
static u64 nr_pages;

struct counts {
	struct lock_counts locks;
	u64 flushes;
};

static void guest_code(void)
{
	u64 page;

	for (;;) {
		for (page = 0; page < nr_pages; page++)
			WRITE_ONCE(*(u64 *)(TEST_GVA + page * page_size), page);
		GUEST_SYNC(0);
	}
}

static struct counts get_counts(struct kvm_vm *vm)
{
	return (struct counts) {
		.locks = read_mmu_lock_counts(),
		.flushes = vm_get_stat(vm, remote_tlb_flush_requests),
	};
}

/* What an ioctl did, according to the counts before and after it. */
static struct counts report(struct kvm_vm *vm, const char *mode, const char *call,
			    struct counts before)
{
	struct counts after = get_counts(vm);

	after.locks.writes -= before.locks.writes;
	after.locks.reads -= before.locks.reads;
	after.flushes -= before.flushes;
	printf("mode=%s %s_write_locks=%lu\n", mode, call, after.locks.writes);
	printf("mode=%s %s_read_locks=%lu\n", mode, call, after.locks.reads);
	printf("mode=%s %s_flush_requests=%lu\n", mode, call, after.flushes);
	return after;
}

/*
 * On arm64, a call that reaps something write-protects MMUs of nested guests with
 * mmu_lock held for write: once, for as much as it reaps.  Those belong to vCPUs with
 * EL2, whether they run a nested guest or not.
 */
static u64 expected_write_locks(struct kvm_vm *vm, u64 flushes)
{
#ifdef __aarch64__
	return flushes && vm_supports_el2(vm);
#else
	return 0;
#endif
}

static void verify(struct kvm_vm *vm, const char *mode, const char *call,
		   struct counts before, u64 flushes)
{
	struct counts did = report(vm, mode, call, before);
	u64 writes = expected_write_locks(vm, flushes);

	TEST_ASSERT(did.locks.writes == writes, "%s: %s took mmu_lock for write %lu times, not %lu",
		    mode, call, did.locks.writes, writes);
#ifdef __x86_64__
	TEST_ASSERT(did.flushes == flushes, "%s: %s requested %lu TLB flushes, not %lu",
		    mode, call, did.flushes, flushes);
#endif
}

static u64 nr_dirty(const unsigned long *bitmap)
{
	u64 nr = 0, page;

	for (page = 0; page < nr_pages; page++)
		nr += test_bit(page, bitmap);
	return nr;
}

static void guest_write_all(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
}

static void enable_logging(struct kvm_vm *vm, struct kvm_vcpu *vcpu, const char *mode,
			   u64 flushes)
{
	struct counts before;

	/* Have something mapped before logging begins. */
	guest_write_all(vcpu);
	before = get_counts(vm);
	vm_mem_region_set_flags(vm, TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
#ifdef __x86_64__
	verify(vm, mode, "enable", before, flushes);
#else
	/* arm64 takes mmu_lock for write to write-protect all of the memslot. */
	report(vm, mode, "enable", before);
#endif
	guest_write_all(vcpu);
}

static struct kvm_vm *create_vm(struct kvm_vcpu **vcpu, enum vm_mem_backing_src_type src,
				u64 manual_flags, bool ring)
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, 1, 0);

	if (manual_flags)
		vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual_flags);
	if (ring)
		vm_enable_dirty_ring(vm, RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
	*vcpu = vm_vcpu_add(vm, 0, guest_code);
	kvm_arch_vm_finalize_vcpus(vm);
	page_size = vm->page_size;
	nr_pages = TEST_SIZE / page_size;
	sync_global_to_guest(vm, page_size);
	sync_global_to_guest(vm, nr_pages);
	vm_userspace_mem_region_add(vm, src, TEST_GPA, TEST_SLOT, nr_pages, 0);
	virt_map(vm, TEST_GVA, TEST_GPA, nr_pages);
	return vm;
}

static void test_get(enum vm_mem_backing_src_type src, const char *mode)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, src, 0, false);
	unsigned long *bitmap = bitmap_zalloc(nr_pages);
	struct counts before;

	enable_logging(vm, vcpu, mode, 1);

	before = get_counts(vm);
	kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
	verify(vm, mode, "get", before, 1);
	TEST_ASSERT(nr_dirty(bitmap) == nr_pages, "The guest wrote all pages");

	before = get_counts(vm);
	kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
	verify(vm, mode, "get_nothing", before, 0);
	TEST_ASSERT(!nr_dirty(bitmap), "The guest didn't run");

	/* If nothing ever counted, the above would prove nothing. */
	before = get_counts(vm);
	vm_mem_region_delete(vm, TEST_SLOT);
	TEST_ASSERT(report(vm, mode, "delete", before).locks.writes,
		    "Deleting a memslot takes mmu_lock for write, but that isn't counted");

	free(bitmap);
	kvm_vm_free(vm);
}

/* In four steps, each of which has something to clear. */
static void test_clear(enum vm_mem_backing_src_type src, const char *mode, u64 flags)
{
	bool init_set = flags & KVM_DIRTY_LOG_INITIALLY_SET;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, src, flags, false);
	unsigned long *bitmap = bitmap_zalloc(nr_pages);
	u64 first, step = nr_pages / 4;
	struct counts before;
	int pass;

	enable_logging(vm, vcpu, mode, !init_set);

	for (pass = 0; pass < 2; pass++) {
		before = get_counts(vm);
		kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
		verify(vm, mode, "get", before, 0);
		TEST_ASSERT(nr_dirty(bitmap) == nr_pages, "The guest wrote all pages");

		for (first = 0; first < nr_pages; first += step) {
			before = get_counts(vm);
			kvm_vm_clear_dirty_log(vm, TEST_SLOT, (void *)bitmap + first / 8,
					       first, step);
			verify(vm, mode, "clear", before, 1);

			before = get_counts(vm);
			kvm_vm_clear_dirty_log(vm, TEST_SLOT, (void *)bitmap + first / 8,
					       first, step);
			verify(vm, mode, "clear_nothing", before, 0);
		}
		guest_write_all(vcpu);
	}

	free(bitmap);
	kvm_vm_free(vm);
}

/*
 * Splitting huge pages on arm64, which CLEAR does if the log is initially set, takes
 * mmu_lock for write, but not once there is nothing left to split.
 */
static void test_eager_split(const char *mode)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, VM_MEM_SRC_ANONYMOUS_THP,
				      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
				      KVM_DIRTY_LOG_INITIALLY_SET, false);
	unsigned long *bitmap = bitmap_zalloc(nr_pages);
	struct counts before, did;
	int pass;

	vm_mem_region_delete(vm, TEST_SLOT);
	vm_enable_eager_split(vm);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS_THP, TEST_GPA, TEST_SLOT, nr_pages, 0);
	enable_logging(vm, vcpu, mode, 0);

	for (pass = 0; pass < 2; pass++) {
		kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
		TEST_ASSERT(nr_dirty(bitmap) == nr_pages, "The guest wrote all pages");

		before = get_counts(vm);
		kvm_vm_clear_dirty_log(vm, TEST_SLOT, bitmap, 0, nr_pages);
		if (pass) {
			verify(vm, mode, "clear_small", before, 1);
		} else {
			did = report(vm, mode, "clear_huge", before);
			TEST_ASSERT(did.locks.writes, "%s: nothing was split", mode);
		}
		guest_write_all(vcpu);
	}

	free(bitmap);
	kvm_vm_free(vm);
}

static void test_ring(const char *mode)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, VM_MEM_SRC_ANONYMOUS, 0, true);
	struct kvm_dirty_gfn *ring = vcpu_map_dirty_ring(vcpu);
	struct counts before;
	u32 nr = 0;

	enable_logging(vm, vcpu, mode, 1);

	while (smp_load_acquire(&ring[nr].flags) == KVM_DIRTY_GFN_F_DIRTY)
		smp_store_release(&ring[nr++].flags, KVM_DIRTY_GFN_F_RESET);
	TEST_ASSERT(nr >= nr_pages, "The guest wrote all pages");

	before = get_counts(vm);
	TEST_ASSERT_EQ(kvm_vm_reset_dirty_ring(vm), nr);
	verify(vm, mode, "reset", before, 1);

	before = get_counts(vm);
	TEST_ASSERT_EQ(kvm_vm_reset_dirty_ring(vm), 0);
	verify(vm, mode, "reset_nothing", before, 0);

	kvm_vm_free(vm);
}

int main(void)
{
	const u64 manual = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
	const u64 init_set = manual | KVM_DIRTY_LOG_INITIALLY_SET;

	__TEST_REQUIRE(lock_stat_usable(),
		       "No " LOCK_STAT ", needs CONFIG_LOCK_STAT and root");
	TEST_REQUIRE((kvm_check_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) & init_set) == init_set);

	test_get(VM_MEM_SRC_ANONYMOUS, "get");
	test_clear(VM_MEM_SRC_ANONYMOUS, "clear", manual);
	test_clear(VM_MEM_SRC_ANONYMOUS, "init-set", init_set);
	if (thp_configured()) {
		test_get(VM_MEM_SRC_ANONYMOUS_THP, "get-thp");
		test_clear(VM_MEM_SRC_ANONYMOUS_THP, "init-set-thp", init_set);
		if (eager_split_supported())
			test_eager_split("eager-split");
	}
	if (kvm_has_cap(KVM_CAP_DIRTY_LOG_RING) || kvm_has_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL))
		test_ring("ring");
	return 0;
}
