// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that dirty logging doesn't take mmu_lock for write, and flushes TLBs once
 * per call that reaps something.
 *
 * Get, clear and reset the dirty log of a VM that does nothing else, switch logging
 * on, and count how often KVM's mmu_lock is taken by each of the ioctls, according
 * to /proc/lock_stat, i.e. the test needs CONFIG_LOCK_STAT.  The counts are those of
 * all VMs, and of what the host does to the VM's memory: if they are too high, all is done
 * again, and the least of what an ioctl was seen to do is what it does.
 *
 * What can't be tested: that logging works, which is what dirty_log_test and
 * dirty_log_mirror_test are for.  How long the lock is held says nothing on a kernel
 * that checks locks.  TLB flushes on arm64, where flushing a range isn't counted, and on
 * Hyper-V, where KVM has the hypervisor flush TLBs, which isn't counted, either.
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
#include "pin_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GVA	0xc0000000ul
#define TEST_GPA	SZ_4G
#define TEST_PAGES	2048
#define RING_ENTRIES	4096

/* Shared with the guest. */
static u64 page_size;
static u64 nr_pages;
/* Write every so many pages, and read the others. */
static u64 stride = 1;

struct counts {
	struct lock_counts locks;
	u64 flushes;
};

/* What the ioctls of a test should do, in their order, and the least they were seen to do. */
#define MAX_CALLS	64
static struct call {
	const char *mode;
	const char *name;
	u64 expected_flushes;
	struct counts least;
} calls[MAX_CALLS];
static int nr_calls;

static void guest_code(void)
{
	u64 page;

	for (;;) {
		for (page = 0; page < nr_pages; page++) {
			u64 *p = (u64 *)(TEST_GVA + page * page_size);

			if (page % stride)
				READ_ONCE(*p);
			else
				WRITE_ONCE(*p, page);
		}
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
static struct counts counts_since(struct kvm_vm *vm, struct counts before)
{
	struct counts after = get_counts(vm);

	after.locks.writes -= before.locks.writes;
	after.locks.reads -= before.locks.reads;
	after.flushes -= before.flushes;
	return after;
}

static bool counts_flushes(void)
{
#ifdef __x86_64__
	u32 signature[3], eax;

	if (!this_cpu_has(X86_FEATURE_HYPERVISOR))
		return true;
	__cpuid(0x40000000, 0, &eax, &signature[0], &signature[1], &signature[2]);
	return memcmp(signature, "Microsoft Hv", sizeof(signature));
#else
	return false;
#endif
}

/* An ioctl is to be judged once it was made several times. */
static void count(struct kvm_vm *vm, const char *mode, const char *name,
		  struct counts before, u64 flushes)
{
	struct counts did = counts_since(vm, before);
	struct call *call = &calls[nr_calls++];

	TEST_ASSERT(nr_calls <= MAX_CALLS, "More than %d ioctls", MAX_CALLS);
	if (!call->name)
		call->least = did;
	call->mode = mode;
	call->name = name;
	call->expected_flushes = flushes;
	call->least.locks.writes = min(call->least.locks.writes, did.locks.writes);
	call->least.locks.reads = min(call->least.locks.reads, did.locks.reads);
	call->least.flushes = min(call->least.flushes, did.flushes);
}

static bool took_locks_as_expected(const struct call *call)
{
	return !call->least.locks.writes;
}

static bool flushed_as_expected(const struct call *call)
{
	return !counts_flushes() || call->least.flushes == call->expected_flushes;
}

static bool as_expected(void)
{
	int i;

	for (i = 0; i < nr_calls; i++) {
		if (!took_locks_as_expected(&calls[i]) || !flushed_as_expected(&calls[i]))
			return false;
	}
	return true;
}

/* The counts are of all VMs. */
static bool others_take_mmu_lock(void)
{
	int i;

	for (i = 0; i < MMU_LOCK_TRIES; i++) {
		u64 writes = read_mmu_lock_counts().writes;

		if (read_mmu_lock_counts().writes == writes)
			return false;
	}
	return true;
}

static void judge(void)
{
	struct call *call;

	for (call = calls; call < calls + nr_calls; call++) {
		printf("mode=%s %s_write_locks=%lu\n", call->mode, call->name,
		       call->least.locks.writes);
		printf("mode=%s %s_read_locks=%lu\n", call->mode, call->name,
		       call->least.locks.reads);
		printf("mode=%s %s_flush_requests=%lu\n", call->mode, call->name,
		       call->least.flushes);
	}
	for (call = calls; call < calls + nr_calls; call++) {
		TEST_ASSERT(took_locks_as_expected(call),
			    "%s: %s took mmu_lock for write %lu times", call->mode,
			    call->name, call->least.locks.writes);
		TEST_ASSERT(flushed_as_expected(call),
			    "%s: %s requested %lu TLB flushes, not %lu", call->mode,
			    call->name, call->least.flushes, call->expected_flushes);
	}
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
	count(vm, mode, "enable", before, flushes);
	guest_write_all(vcpu);
}

static struct kvm_vm *create_vm(struct kvm_vcpu **vcpu, enum vm_mem_backing_src_type src,
				u64 manual_flags, bool ring)
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, 1, 0);
	u64 guest_pages;

	if (manual_flags)
		vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual_flags);
	if (ring)
		vm_enable_dirty_ring(vm, RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
	*vcpu = vm_vcpu_add(vm, 0, guest_code);
	kvm_arch_vm_finalize_vcpus(vm);
	/* The log, and whatever else is said of pages here, is of the host's. */
	page_size = getpagesize();
	nr_pages = TEST_PAGES;
	guest_pages = vm_num_guest_pages(vm->mode, nr_pages);
	sync_global_to_guest(vm, page_size);
	sync_global_to_guest(vm, nr_pages);
	vm_userspace_mem_region_add(vm, src, TEST_GPA, TEST_SLOT, guest_pages, 0);
	virt_map(vm, TEST_GVA, TEST_GPA, guest_pages);
	return vm;
}

static void test_get(enum vm_mem_backing_src_type src, const char *mode, u64 flags)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, src, flags, false);
	unsigned long *bitmap = bitmap_zalloc(nr_pages);
	struct counts before;

	enable_logging(vm, vcpu, mode, 1);

	before = get_counts(vm);
	kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
	count(vm, mode, "get", before, 1);
	TEST_ASSERT(nr_dirty(bitmap) == nr_pages, "The guest wrote all pages");

	before = get_counts(vm);
	kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
	count(vm, mode, "get_nothing", before, 0);
	TEST_ASSERT(!nr_dirty(bitmap), "The guest didn't run");

	/* If nothing ever counted, the above would prove nothing. */
	before = get_counts(vm);
	vm_mem_region_delete(vm, TEST_SLOT);
	TEST_ASSERT(counts_since(vm, before).locks.writes,
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
		count(vm, mode, "get", before, 0);
		TEST_ASSERT(nr_dirty(bitmap) == nr_pages, "The guest wrote all pages");

		for (first = 0; first < nr_pages; first += step) {
			before = get_counts(vm);
			kvm_vm_clear_dirty_log(vm, TEST_SLOT, (void *)bitmap + first / 8,
					       first, step);
			count(vm, mode, "clear", before, 1);

			before = get_counts(vm);
			kvm_vm_clear_dirty_log(vm, TEST_SLOT, (void *)bitmap + first / 8,
					       first, step);
			count(vm, mode, "clear_nothing", before, 0);
		}
		guest_write_all(vcpu);
	}

	free(bitmap);
	kvm_vm_free(vm);
}

/* The first write to a huge page would unmap its other pages, so that reads fault. */
static void verify_split(struct kvm_vm *vm, struct kvm_vcpu *vcpu, const char *mode)
{
	u64 exits;

	stride = SZ_2M / page_size;
	sync_global_to_guest(vm, stride);
	exits = vcpu_get_stat(vcpu, exits);
	guest_write_all(vcpu);
	exits = vcpu_get_stat(vcpu, exits) - exits;
	TEST_ASSERT(exits < nr_pages / 4, "%s: huge pages weren't split, %lu exits", mode, exits);
	stride = 1;
	sync_global_to_guest(vm, stride);
}

/*
 * Splitting huge pages on arm64 doesn't take mmu_lock for write, be it when logging is
 * switched on, or by CLEAR if the log is initially set.
 */
static void test_eager_split(enum vm_mem_backing_src_type src, const char *mode, u64 flags)
{
	bool init_set = flags & KVM_DIRTY_LOG_INITIALLY_SET;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, src, flags, false);
	unsigned long *bitmap = bitmap_zalloc(nr_pages);
	struct counts before;
	int pass;

	vm_mem_region_delete(vm, TEST_SLOT);
	vm_enable_eager_split(vm);
	vm_userspace_mem_region_add(vm, src, TEST_GPA, TEST_SLOT,
				    vm_num_guest_pages(vm->mode, nr_pages), 0);

	/* Have something mapped before logging begins. */
	guest_write_all(vcpu);
	before = get_counts(vm);
	vm_mem_region_set_flags(vm, TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	count(vm, mode, "enable", before, !init_set);
	if (!init_set)
		verify_split(vm, vcpu, mode);
	guest_write_all(vcpu);

	for (pass = 0; pass < 2; pass++) {
		kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
		TEST_ASSERT(nr_dirty(bitmap) == nr_pages, "The guest wrote all pages");

		before = get_counts(vm);
		kvm_vm_clear_dirty_log(vm, TEST_SLOT, bitmap, 0, nr_pages);
		count(vm, mode, "clear", before, 1);
		if (init_set && !pass)
			verify_split(vm, vcpu, mode);
		guest_write_all(vcpu);
	}

	free(bitmap);
	kvm_vm_free(vm);
}

static void test_ring(enum vm_mem_backing_src_type src, const char *mode, u64 flags)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, src, flags, true);
	struct kvm_dirty_gfn *ring = vcpu_map_dirty_ring(vcpu);
	struct counts before;
	u32 nr = 0;

	enable_logging(vm, vcpu, mode, 1);

	while (smp_load_acquire(&ring[nr].flags) == KVM_DIRTY_GFN_F_DIRTY)
		smp_store_release(&ring[nr++].flags, KVM_DIRTY_GFN_F_RESET);
	TEST_ASSERT(nr >= nr_pages, "The guest wrote all pages");

	before = get_counts(vm);
	TEST_ASSERT_EQ(kvm_vm_reset_dirty_ring(vm), nr);
	count(vm, mode, "reset", before, 1);

	before = get_counts(vm);
	TEST_ASSERT_EQ(kvm_vm_reset_dirty_ring(vm), 0);
	count(vm, mode, "reset_nothing", before, 0);

	kvm_vm_free(vm);
}

static void run_test(void (*test)(enum vm_mem_backing_src_type, const char *, u64),
		     enum vm_mem_backing_src_type src, const char *mode, u64 flags)
{
	int i;

	memset(calls, 0, sizeof(calls));
	/* Noise only adds to what is counted, i.e. once is enough if there is none. */
	for (i = 0; !i || (i < MMU_LOCK_TRIES && !as_expected()); i++) {
		nr_calls = 0;
		test(src, mode, flags);
	}
	__TEST_REQUIRE(as_expected() || !others_take_mmu_lock(),
		       "Other VMs take mmu_lock all the time");
	judge();
}

int main(void)
{
	const u64 manual = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
	const u64 init_set = manual | KVM_DIRTY_LOG_INITIALLY_SET;

	__TEST_REQUIRE(lock_stat_usable(),
		       "Nothing in " LOCK_STAT ", needs CONFIG_LOCK_STAT and root");
	TEST_REQUIRE((kvm_check_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) & init_set) == init_set);

	stop_numa_balancing();
	run_test(test_get, VM_MEM_SRC_ANONYMOUS, "get", 0);
	run_test(test_clear, VM_MEM_SRC_ANONYMOUS, "clear", manual);
	run_test(test_clear, VM_MEM_SRC_ANONYMOUS, "init-set", init_set);
	if (thp_configured()) {
		run_test(test_get, VM_MEM_SRC_ANONYMOUS_THP, "get-thp", 0);
		run_test(test_clear, VM_MEM_SRC_ANONYMOUS_THP, "init-set-thp", init_set);
		if (eager_split_supported()) {
			run_test(test_eager_split, VM_MEM_SRC_ANONYMOUS_THP, "eager-split",
				 manual);
			run_test(test_eager_split, VM_MEM_SRC_ANONYMOUS_THP,
				 "eager-split-init-set", init_set);
		}
	}
	if (kvm_has_cap(KVM_CAP_DIRTY_LOG_RING) || kvm_has_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL))
		run_test(test_ring, VM_MEM_SRC_ANONYMOUS, "ring", 0);
	return 0;
}
