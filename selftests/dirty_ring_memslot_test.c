// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that KVM_RESET_DIRTY_RINGS write-protects a page of a memslot although the ring has
 * an entry, next to the page's, that was made for another memslot with the same id.
 *
 * The dirty ring isn't purged when a memslot is deleted.  If its id is used again, for a smaller
 * memslot, the ring can have entries for pages beyond its end.  KVM resets entries of up to
 * 64 pages at a time, and must not leave out those pages that the memslot has.
 */
#include <stdio.h>
#include <stdlib.h>

#include <asm/barrier.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GVA	0xc0000000ul
#define TEST_GPA	SZ_4G
#define NR_PAGES	128
#define NR_PAGES_THEN	64
/* In the smaller memslot, and beyond it, but less than 64 pages apart. */
#define PAGE_LEFT	63
#define PAGE_GONE	70
#define RING_ENTRIES	4096

/* Shared with the guest. */
static u64 page_size;
static u64 page;

static struct kvm_dirty_gfn *ring;
static u32 fetch;

static void guest_code(void)
{
	u64 nr;

	for (nr = 1; ; nr++) {
		WRITE_ONCE(*(u64 *)(TEST_GVA + READ_ONCE(page) * page_size), nr);
		GUEST_SYNC(0);
	}
}

static void guest_write(struct kvm_vm *vm, struct kvm_vcpu *vcpu, u64 nr)
{
	struct ucall uc;

	page = nr;
	sync_global_to_guest(vm, page);
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
}

/* Have the next entry reset, which must be that of @nr.  Returns false if there is none. */
static bool harvest(u64 nr)
{
	struct kvm_dirty_gfn *entry = &ring[fetch % RING_ENTRIES];

	if (smp_load_acquire(&entry->flags) != KVM_DIRTY_GFN_F_DIRTY)
		return false;

	TEST_ASSERT_EQ(entry->slot, TEST_SLOT);
	TEST_ASSERT_EQ(entry->offset, nr);
	smp_store_release(&entry->flags, KVM_DIRTY_GFN_F_RESET);
	fetch++;
	return true;
}

static void add_memslot(struct kvm_vm *vm, u64 npages)
{
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT,
				    vm_num_guest_pages(vm->mode, npages),
				    KVM_MEM_LOG_DIRTY_PAGES);
}

int main(void)
{
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
	sync_global_to_guest(vm, page_size);
	add_memslot(vm, NR_PAGES);
	virt_map(vm, TEST_GVA, TEST_GPA, vm_num_guest_pages(vm->mode, NR_PAGES));
	ring = vcpu_map_dirty_ring(vcpu);

	guest_write(vm, vcpu, PAGE_GONE);
	vm_mem_region_delete(vm, TEST_SLOT);
	add_memslot(vm, NR_PAGES_THEN);
	guest_write(vm, vcpu, PAGE_LEFT);

	TEST_ASSERT(harvest(PAGE_GONE), "The write to the deleted memslot is not in the ring");
	TEST_ASSERT(harvest(PAGE_LEFT), "The first write is not in the ring");
	TEST_ASSERT_EQ(kvm_vm_reset_dirty_ring(vm), 2);

	guest_write(vm, vcpu, PAGE_LEFT);
	TEST_ASSERT(harvest(PAGE_LEFT), "The write after the reset is not in the ring");

	kvm_vm_free(vm);
	return 0;
}
