// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that what a nested guest writes is logged, on arm64.
 *
 * A nested guest writes pages, the host reads or clears the dirty log, or resets the
 * dirty ring, the nested guest writes the pages again: all of them must be logged again.
 *
 * What can't be tested: TLBs, unless the machine has some that survive an exit.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asm/barrier.h>
#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "nested_el2.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GVA	0xc0000000ul
#define TEST_GPA	((gpa_t)SZ_4G)
#define NR_PAGES	128ul
/* KVM wants a ring to be a page at least, of 64 KiB if need be. */
#define RING_ENTRIES	4096

enum log_mode {
	MODE_GET,
	MODE_CLEAR,
	MODE_RING,
};

static const char * const names[] = {
	[MODE_GET]	= "get",
	[MODE_CLEAR]	= "clear",
	[MODE_RING]	= "ring",
};

static void l2_guest_code(u32 unused)
{
	u64 page;

	for (;;) {
		for (page = 0; page < NR_PAGES; page++)
			WRITE_ONCE(*(u64 *)(TEST_GVA + page * SZ_4K), page);
		GUEST_SYNC(0);
	}
}

static void l1_guest_code(gpa_t stage2)
{
	enter_l2(l2_guest_code, 0, stage2);
}

static void run(struct kvm_vcpu *vcpu)
{
	struct ucall uc;
	u64 cmd;

	vcpu_run(vcpu);
	cmd = get_ucall(vcpu, &uc);
	if (cmd == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT_EQ(cmd, UCALL_SYNC);
}

static void harvest_ring(struct kvm_vm *vm, struct kvm_vcpu *vcpu, unsigned long *bitmap,
			 u32 *fetch)
{
	struct kvm_dirty_gfn *ring = vcpu_map_dirty_ring(vcpu), *entry;

	for (;;) {
		entry = &ring[*fetch % RING_ENTRIES];
		if (smp_load_acquire(&entry->flags) != KVM_DIRTY_GFN_F_DIRTY)
			break;
		if (entry->slot == TEST_SLOT)
			set_bit(entry->offset, bitmap);
		smp_store_release(&entry->flags, KVM_DIRTY_GFN_F_RESET);
		(*fetch)++;
	}
	kvm_vm_reset_dirty_ring(vm);
}

static void test_mode(enum log_mode mode)
{
	unsigned long *bitmap = bitmap_zalloc(NR_PAGES);
	u64 page, logged, round;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	u32 fetch = 0;

	if (mode == MODE_RING && !kvm_has_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL)) {
		print_skip("no dirty ring");
		return;
	}

	vm = __vm_create(VM_SHAPE(VM_MODE_P40V48_4K), 1, L1_STAGE2_PAGES);
	if (mode == MODE_CLEAR)
		vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
			      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	if (mode == MODE_RING)
		vm_enable_dirty_ring(vm, RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
	vcpu = vm_vcpu_add(vm, 0, l1_guest_code);
	kvm_arch_vm_finalize_vcpus(vm);
	__TEST_REQUIRE(vcpu_has_el2(vcpu), "Needs a vCPU with EL2, which NV=0 denies");
	vcpu_args_set(vcpu, 1, create_l1_stage2(vm));
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, NR_PAGES,
				    KVM_MEM_LOG_DIRTY_PAGES);
	virt_map(vm, TEST_GVA, TEST_GPA, NR_PAGES);

	for (round = 0; round < 3; round++) {
		run(vcpu);

		bitmap_zero(bitmap, NR_PAGES);
		if (mode == MODE_RING)
			harvest_ring(vm, vcpu, bitmap, &fetch);
		else
			kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
		if (mode == MODE_CLEAR)
			kvm_vm_clear_dirty_log(vm, TEST_SLOT, bitmap, 0, NR_PAGES);

		for (page = 0, logged = 0; page < NR_PAGES; page++)
			logged += test_bit(page, bitmap);
		printf("mode=%s round=%lu logged=%lu\n", names[mode], round, logged);
		TEST_ASSERT(logged == NR_PAGES,
			    "%s: %lu of %lu pages were not logged, in round %lu",
			    names[mode], NR_PAGES - logged, NR_PAGES, round);
	}

	free(bitmap);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	bool tested = false;
	int mode;

	TEST_REQUIRE(kvm_has_cap(KVM_CAP_ARM_EL2));
	TEST_REQUIRE(getpagesize() == SZ_4K);
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_ARM_VM_IPA_SIZE) >= 40);

	for (mode = 0; mode < (int)ARRAY_SIZE(names); mode++) {
		if (argc > 1 && strcmp(argv[1], names[mode]))
			continue;
		test_mode(mode);
		tested = true;
	}
	TEST_ASSERT(tested, "usage: %s [get|clear|ring]", argv[0]);
	return 0;
}
