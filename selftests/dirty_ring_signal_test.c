// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that KVM_RESET_DIRTY_RINGS write-protects every page it resets the entry of,
 * when signals interrupt it.
 *
 * KVM write-protects pages in batches, and stops early if a signal is pending.  Have a
 * timer send a signal while the dirty ring is reset, in as many calls as it takes, have
 * the guest write all pages once more, and verify that all of them are in the ring
 * again.  A page that is not was left writable, i.e. its next write is lost.
 *
 * What can't be tested: whether a call that was interrupted could have done more.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>

#include <asm/barrier.h>
#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GVA	0xc0000000ul
#define TEST_GPA	SZ_4G
#define NR_PAGES	8192
/* The guest writes a few pages more, and some entries are reserved. */
#define RING_ENTRIES	(2 * NR_PAGES)
#define ROUNDS		16
/* To begin with, for a signal to come. */
#define SIGNAL_USEC	100

/* Shared with the guest. */
static u64 page_size;

static int nr_signals;

static void count_signal(int sig)
{
	WRITE_ONCE(nr_signals, nr_signals + 1);
}

static void guest_code(void)
{
	u64 page;

	for (;;) {
		for (page = 0; page < NR_PAGES; page++)
			WRITE_ONCE(*(u64 *)(TEST_GVA + page * page_size), page);
		GUEST_SYNC(0);
	}
}

static void guest_write_all(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
}

/* Returns the number of entries, and sets the bits of the test's pages. */
static u32 harvest(struct kvm_dirty_gfn *ring, u32 *fetch, unsigned long *bitmap)
{
	struct kvm_dirty_gfn *entry = &ring[*fetch % RING_ENTRIES];
	u32 nr;

	bitmap_zero(bitmap, NR_PAGES);
	for (nr = 0; smp_load_acquire(&entry->flags) == KVM_DIRTY_GFN_F_DIRTY; nr++) {
		if (entry->slot == TEST_SLOT)
			set_bit(entry->offset, bitmap);
		smp_store_release(&entry->flags, KVM_DIRTY_GFN_F_RESET);
		entry = &ring[++*fetch % RING_ENTRIES];
	}
	return nr;
}

/*
 * Returns how many calls reset something, but not all that was left.  Each call gets one
 * signal, after a time that is found by trial: longer if the signal came before the call
 * had done anything, shorter if the call was done first.
 */
static u32 reset_with_signals(struct kvm_vm *vm, u32 nr)
{
	static u32 usec = SIGNAL_USEC;
	struct itimerval timer = {}, stop = {};
	u32 done, interrupted = 0;
	int signals;

	while (nr) {
		signals = READ_ONCE(nr_signals);
		timer.it_value.tv_usec = usec;
		setitimer(ITIMER_REAL, &timer, NULL);
		done = kvm_vm_reset_dirty_ring(vm);
		setitimer(ITIMER_REAL, &stop, NULL);
		TEST_ASSERT(done <= nr, "%u entries reset, there are %u", done, nr);
		if (READ_ONCE(nr_signals) == signals)
			usec = max(usec / 2, 1u);
		else if (!done || done == nr)
			usec = min(2 * usec, 500000u);
		else
			interrupted++;
		nr -= done;
	}
	return interrupted;
}

int main(void)
{
	u32 fetch = 0, nr, interrupted = 0, missed = 0, round, page, guest_pages;
	unsigned long *bitmap = bitmap_zalloc(NR_PAGES);
	struct kvm_dirty_gfn *ring;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	TEST_REQUIRE(kvm_has_cap(KVM_CAP_DIRTY_LOG_RING) ||
		     kvm_has_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL));

	vm = __vm_create(VM_SHAPE_DEFAULT, 1, 0);
	vm_enable_dirty_ring(vm, RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
	vcpu = vm_vcpu_add(vm, 0, guest_code);
	kvm_arch_vm_finalize_vcpus(vm);
	/* The log, and whatever else is said of pages here, is of the host's. */
	page_size = getpagesize();
	guest_pages = vm_num_guest_pages(vm->mode, NR_PAGES);
	sync_global_to_guest(vm, page_size);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, guest_pages,
				    KVM_MEM_LOG_DIRTY_PAGES);
	virt_map(vm, TEST_GVA, TEST_GPA, guest_pages);
	ring = vcpu_map_dirty_ring(vcpu);

	signal(SIGALRM, count_signal);

	for (round = 0; round < ROUNDS; round++) {
		guest_write_all(vcpu);
		nr = harvest(ring, &fetch, bitmap);
		for (page = 0; page < NR_PAGES; page++) {
			if (!test_bit(page, bitmap) && missed++ < 4)
				pr_info("Round %u: write to page %u missed\n", round, page);
		}
		interrupted += reset_with_signals(vm, nr);
	}

	printf("interrupted=%u missed=%u\n", interrupted, missed);
	TEST_ASSERT(!missed, "%u of %u writes were not logged", missed, ROUNDS * NR_PAGES);
	/* On a machine so fast that no signal gets in, the test proves nothing. */
	__TEST_REQUIRE(interrupted, "None of %d resets was interrupted by one of %d signals",
		       ROUNDS, READ_ONCE(nr_signals));

	kvm_vm_free(vm);
	free(bitmap);
	return 0;
}
