// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify what KVM does if a VM has as many shadow pages as it may have.
 *
 * A guest, or a nested guest if KVM uses TDP, has a page in each of many page tables, i.e.
 * makes KVM use at least one shadow page per page, and verifies that the page holds what
 * was last written to it.
 *
 *  - With room for all of them, no shadow page is recycled.
 *  - With a limit (KVM_SET_NR_MMU_PAGES) that is lower, shadow pages are recycled: in
 *    batches, with about one TLB flush per batch, and without active roots.
 *  - Lowering the limit leaves that limit, not less: what fits in it is not recycled.
 *  - The limit changes, and memslots come and go, while the guest runs.
 *  - If the memslot is deleted that has the page tables, their shadow pages are zapped.
 *  - If the shadow page of L1's top-level page table is zapped, so is what hangs from it.
 *  - If active roots alone are as many as the limit, KVM_RUN fails, and works again
 *    as soon as the limit is raised.  With shadow paging alone, as it takes many roots.
 *
 * What can't be tested: that shadow pages that were recycled, or zapped roots, are no
 * longer in use.  KVM checks some of that itself and warns.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "pin_util.h"
#include "processor.h"
#include "shadow_pages.h"
#include "test_util.h"
#include "ucall_common.h"

#define NR_TABLES	400
#define EXTRA_SLOT	12
#define EXTRA_SIZE	SZ_2M

/* Enough roots, four per vCPU, for the lowest limit. */
#define ROOTS_PER_VCPU	4
#define NR_ROOT_VCPUS	(MIN_SHADOW_PAGES / ROOTS_PER_VCPU + 1)

/* Shared with the guest. */
static u64 nr_tables;
static bool write_root;
static u64 nr_writes[NR_TABLES];
static u64 roots[NR_ROOT_VCPUS + 1][ROOTS_PER_VCPU];

struct stats {
	u64 recycled;
	u64 zapped;
	u64 flushes;
};

static u64 page_value(u64 table)
{
	return table << 32 | nr_writes[table];
}

static void guest_code(void)
{
	u64 table, *page;

	for (;;) {
		if (READ_ONCE(write_root))
			guest_write_root_table();
		for (table = 0; table < READ_ONCE(nr_tables); table++) {
			page = guest_table_page(table);
			GUEST_ASSERT_EQ(READ_ONCE(*page), page_value(table));
			nr_writes[table]++;
			WRITE_ONCE(*page, page_value(table));
		}
		GUEST_SYNC(0);
	}
}

/* Has the guest go through the first nr of its page tables. */
static void run_pass(struct shadow_vm *s, u64 nr)
{
	struct ucall uc;

	nr_tables = nr;
	sync_global_to_guest(s->vm, nr_tables);
	vcpu_run(s->vcpu);
	switch (get_ucall(s->vcpu, &uc)) {
	case UCALL_SYNC:
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
		break;
	default:
		TEST_FAIL("Unexpected exit: %s", exit_reason_str(s->vcpu->run->exit_reason));
	}
}

static struct stats read_stats(struct kvm_vm *vm)
{
	return (struct stats) {
		.recycled = vm_get_stat(vm, mmu_recycled),
		.zapped = vm_get_stat(vm, mmu_shadow_zapped),
		.flushes = vm_get_stat(vm, remote_tlb_flush_requests),
	};
}

static struct stats stats_since(struct kvm_vm *vm, struct stats before)
{
	struct stats now = read_stats(vm);

	return (struct stats) {
		.recycled = now.recycled - before.recycled,
		.zapped = now.zapped - before.zapped,
		.flushes = now.flushes - before.flushes,
	};
}

static void test_room_for_all(struct shadow_vm *s)
{
	struct stats before = read_stats(s->vm);
	u64 recycled;

	set_shadow_page_limit(s->vm, MAX_SHADOW_PAGES);
	run_pass(s, NR_TABLES);
	run_pass(s, NR_TABLES);
	recycled = stats_since(s->vm, before).recycled;
	TEST_ASSERT(!recycled, "%lu pages recycled although there was room for all", recycled);
}

static void test_recycling(struct shadow_vm *s)
{
	const int nr_passes = 3;
	struct stats before, stats;
	int i;

	set_shadow_page_limit(s->vm, NR_TABLES / 2);
	run_pass(s, NR_TABLES);

	before = read_stats(s->vm);
	for (i = 0; i < nr_passes; i++)
		run_pass(s, NR_TABLES);
	stats = stats_since(s->vm, before);
	printf("recycled=%lu\nzapped=%lu\nflushes=%lu\n", stats.recycled, stats.zapped,
	       stats.flushes);

	TEST_ASSERT(stats.recycled >= nr_passes * NR_TABLES / 2,
		    "%lu pages recycled, the limit does not hold", stats.recycled);
	/* Active roots can be zapped, but not be recycled. */
	TEST_ASSERT(stats.zapped == stats.recycled, "%lu pages zapped, %lu of them recycled",
		    stats.zapped, stats.recycled);
	/*
	 * KVM recycles 20 to 25 pages at once, KVM_REFILL_PAGES.  The host may have TLBs
	 * flushed for reasons of its own.
	 */
	TEST_ASSERT(stats.flushes <= stats.recycled / 8,
		    "%lu TLB flushes to recycle %lu pages", stats.flushes,
		    stats.recycled);
}

static void test_lower_limit(struct shadow_vm *s)
{
	struct stats before;
	u64 recycled;

	set_shadow_page_limit(s->vm, MAX_SHADOW_PAGES);
	run_pass(s, NR_TABLES);
	set_shadow_page_limit(s->vm, NR_TABLES / 2);
	run_pass(s, NR_TABLES / 4);

	before = read_stats(s->vm);
	run_pass(s, NR_TABLES / 4);
	recycled = stats_since(s->vm, before).recycled;
	TEST_ASSERT(!recycled, "%lu pages recycled although the limit leaves room for all",
		    recycled);
}

static void *change_limit(void *data)
{
	struct shadow_vm *s = data;
	struct kvm_random_state rng = new_kvm_random_state(1);
	gpa_t gpa = s->gpa - SZ_1G;
	void *mem;
	int i;

	mem = kvm_mmap(EXTRA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	for (i = 0; i < 200; i++) {
		set_shadow_page_limit(s->vm,
				      MIN_SHADOW_PAGES + kvm_random_u32(&rng) % NR_TABLES);
		if (i % 8)
			continue;
		vm_set_user_memory_region(s->vm, EXTRA_SLOT, 0, gpa, EXTRA_SIZE, mem);
		vm_set_user_memory_region(s->vm, EXTRA_SLOT, 0, gpa, 0, NULL);
	}
	kvm_munmap(mem, EXTRA_SIZE);
	return NULL;
}

static void test_changes_meanwhile(struct shadow_vm *s)
{
	struct stats before = read_stats(s->vm);
	pthread_t thread;
	int i;

	kvm_pthread_create(&thread, NULL, change_limit, s);
	for (i = 0; i < 4 || pthread_tryjoin_np(thread, NULL); i++)
		run_pass(s, NR_TABLES);
	printf("recycled_meanwhile=%lu\n", stats_since(s->vm, before).recycled);
}

/* Shadow pages go along with the memslot that has the page tables, however large. */
static void test_memslot_of_page_tables(struct shadow_vm *s)
{
	struct stats before;
	u64 zapped;

	if (!(kvm_check_cap(KVM_CAP_DISABLE_QUIRKS2) & KVM_X86_QUIRK_SLOT_ZAP_ALL)) {
		pr_info("No KVM_X86_QUIRK_SLOT_ZAP_ALL, deleting a memslot zaps all\n");
		return;
	}
	vm_enable_cap(s->vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_SLOT_ZAP_ALL);
	set_shadow_page_limit(s->vm, MAX_SHADOW_PAGES);
	run_pass(s, NR_TABLES);

	before = read_stats(s->vm);
	vm_set_user_memory_region(s->vm, PT_SLOT, 0, s->pt_gpa, 0, NULL);
	zapped = stats_since(s->vm, before).zapped;
	TEST_ASSERT(zapped >= NR_TABLES, "%lu shadow pages zapped with %u page tables", zapped,
		    NR_TABLES);

	vm_set_user_memory_region(s->vm, PT_SLOT, 0, s->pt_gpa, s->pt_size, s->pt_mem);
	run_pass(s, NR_TABLES);
}

/* Nested guests only: KVM keeps pages that nothing leads to if they may be used again. */
static void test_nested_root(struct shadow_vm *s)
{
	struct stats before;
	u64 zapped;

	set_shadow_page_limit(s->vm, MAX_SHADOW_PAGES);
	run_pass(s, NR_TABLES);

	before = read_stats(s->vm);
	write_root = true;
	sync_global_to_guest(s->vm, write_root);
	run_pass(s, 0);
	write_root = false;
	sync_global_to_guest(s->vm, write_root);
	zapped = stats_since(s->vm, before).zapped;
	TEST_ASSERT(zapped >= NR_TABLES,
		    "%lu shadow pages zapped, %u page tables hang from the root", zapped,
		    NR_TABLES);
	run_pass(s, NR_TABLES);
}

static void root_guest_code(u64 idx)
{
	int i;

	for (;;) {
		for (i = 0; i < ROOTS_PER_VCPU; i++)
			set_cr3(READ_ONCE(roots[idx][i]));
		GUEST_SYNC(0);
	}
}

static void ignore_alarm(int sig)
{
}

static void test_limit_cannot_be_met(void)
{
	struct kvm_vcpu *vcpus[NR_ROOT_VCPUS + 1], *last;
	struct kvm_vm *vm;
	struct ucall uc;
	int i, j, ret;

	vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, ARRAY_SIZE(vcpus),
				    ARRAY_SIZE(vcpus) * ROOTS_PER_VCPU * PTES_PER_MIN_PAGE,
				    root_guest_code, vcpus);
	last = vcpus[NR_ROOT_VCPUS];
	for (i = 0; i < (int)ARRAY_SIZE(vcpus); i++) {
		vcpu_args_set(vcpus[i], 1, i);
		for (j = 0; j < ROOTS_PER_VCPU; j++)
			roots[i][j] = vm_alloc_page_table(vm);
	}
	/* All page tables are there now, that the roots map. */
	for (i = 0; i < (int)ARRAY_SIZE(vcpus); i++) {
		for (j = 0; j < ROOTS_PER_VCPU; j++)
			memcpy(addr_gpa2hva(vm, roots[i][j]),
			       addr_gpa2hva(vm, vm->mmu.pgd), PAGE_SIZE);
	}
	sync_global_to_guest(vm, roots);

	/* They keep their roots. */
	set_shadow_page_limit(vm, MAX_SHADOW_PAGES);
	for (i = 0; i < NR_ROOT_VCPUS; i++) {
		vcpu_run(vcpus[i]);
		TEST_ASSERT_EQ(get_ucall(vcpus[i], &uc), UCALL_SYNC);
	}

	set_shadow_page_limit(vm, MIN_SHADOW_PAGES);
	/* A signal ends it if KVM tries again for ever. */
	signal(SIGALRM, ignore_alarm);
	alarm(60);
	ret = __vcpu_run(last);
	alarm(0);
	TEST_ASSERT(ret && errno == ENOSPC,
		    "KVM_RUN of a vCPU without room for its root: ret = %d, errno = %d", ret,
		    errno);

	set_shadow_page_limit(vm, MAX_SHADOW_PAGES);
	vcpu_run(last);
	TEST_ASSERT_EQ(get_ucall(last, &uc), UCALL_SYNC);
	kvm_vm_free(vm);
}

int main(void)
{
	struct shadow_vm s;
	u64 table;

	TEST_REQUIRE(shadow_vm_supported());
	stop_numa_balancing();

	shadow_vm_create(&s, NR_TABLES, guest_code);
	for (table = 0; table < NR_TABLES; table++)
		*host_table_page(&s, table) = page_value(table);

	test_room_for_all(&s);
	test_recycling(&s);
	test_lower_limit(&s);
	test_changes_meanwhile(&s);
	if (s.nested)
		test_nested_root(&s);
	test_memslot_of_page_tables(&s);
	kvm_vm_free(s.vm);

	if (!s.nested)
		test_limit_cannot_be_met();
	return 0;
}
