// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that TLB flushes that INVLPG defers are done before KVM relies on them.
 *
 * One vCPU, the writer, writes a page again and again, and never exits by itself.
 * Another one, the changer, re-points the PTE to a second page and executes INVLPG,
 * whereupon KVM drops the SPTE.  The writer, which wasn't told, may go on to write the
 * first page by means of its TLB, with no SPTE left to tell.  Then
 *  - the host unmaps the page;
 *  - the host reads the memslot's dirty log;
 *  - the host deletes the memslot, with and without KVM_X86_QUIRK_SLOT_ZAP_ALL;
 *  - the page, a page table, is synchronized, i.e. KVM is to learn of writes to it.
 * Verify that the writer has ceased to write the page once that is done, and that KVM
 * requested a flush for that.  The host looks at the page by means of another mapping,
 * which has nothing to do with the VM.
 *
 * What can't be tested: zapping a range of gfns for other reasons (APICv, memory types).
 * How often the writer really did write the page in between, i.e. was still going to be
 * stopped, is reported: without that, there was nothing to be late with.  On an
 * emulated machine, it's stopped by any exit: the host's own flush of its TLBs when it
 * unmaps the page, and its waiting for
 * readers when it deletes the memslot.  Only KVM's requests tell in these cases.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <linux/sizes.h>

#include "kvm_param.h"
#include "kvm_util.h"
#include "pin_util.h"
#include "processor.h"
#include "run_until.h"
#include "test_util.h"
#include "ucall_common.h"

#define SLOT_X		10
#define SLOT_Y		11
#define GPA_X		((gpa_t)SZ_4G)
#define GPA_Y		((gpa_t)SZ_4G + SZ_1G)
#define TEST_GVA	0xc0000000ul
/* The page table that maps TEST_GVA, twice: by itself, and by another page table. */
#define SELF_GVA	(TEST_GVA + PAGE_SIZE)
#define ALT_GVA		0xd0000000ul
/* A page table of its own, of which only the first entry is used. */
#define OTHER_GVA	0xe0000000ul
#define NR_ROUNDS	100
/* The host may unmap a page, or have TLBs flushed, for reasons of its own. */
#define MAX_NOISE	(NR_ROUNDS / 10)

enum command {
	MAP_FIRST,
	MAP_SECOND,
	SYNC,
};

/* Set by the host: where in the page table the PTEs are, and what to put there. */
static u64 test_index;
static u64 self_index;
static u64 first_pte;
static u64 second_pte;
static u64 self_pte;

/* From the host to the changer. */
static u64 command;

/* From the host to the writer: how often to have flushed its TLB. */
static u64 flushes;
static u64 flushes_done;
static u64 stop_writer;

/* The second word: the first one is the PTE of OTHER_GVA if the page is a page table. */
static u64 *guest_word = (u64 *)TEST_GVA + 1;

static void changer_code(void)
{
	u64 *self = (u64 *)SELF_GVA, *alt = (u64 *)ALT_GVA;

	for (;;) {
		switch (READ_ONCE(command)) {
		case MAP_FIRST:
			WRITE_ONCE(alt[self_index], self_pte);
			WRITE_ONCE(alt[test_index], first_pte);
			/* The page table isn't writable for anybody anymore. */
			set_cr3(get_cr3());
			break;
		case MAP_SECOND:
			WRITE_ONCE(self[test_index], second_pte);
			invlpg(TEST_GVA);
			/*
			 * Leave no writable SPTE of the page table, either: KVM would
			 * flush TLBs for its sake when it synchronizes page tables.
			 */
			WRITE_ONCE(self[self_index], 0);
			invlpg(SELF_GVA);
			break;
		case SYNC:
			READ_ONCE(*(u64 *)OTHER_GVA);
			set_cr3(get_cr3());
			break;
		}
		GUEST_SYNC(0);
	}
}

static void writer_code(void)
{
	u64 value = 0, nr = 0;

	while (!READ_ONCE(stop_writer)) {
		/* Never present, should it be a PTE. */
		value += 2;
		WRITE_ONCE(*guest_word, value);

		if (READ_ONCE(flushes) != nr) {
			nr++;
			invlpg(TEST_GVA);
			WRITE_ONCE(flushes_done, nr);
		}
	}
	GUEST_DONE();
}

/* What the guest has in a variable, in the host's mapping. */
#define shared(vm, var)		((u64 *)addr_gva2hva(vm, (gva_t)&(var)))

static cpu_set_t allowed_cpus;

static void *run_writer(void *vcpu)
{
	pin_self_to_nth_cpu(&allowed_cpus, 1);
	run_until(vcpu, UCALL_DONE);
	return NULL;
}

/* Has the changer do it. */
static void change(struct kvm_vcpu *changer, enum command cmd)
{
	WRITE_ONCE(*shared(changer->vm, command), cmd);
	run_until(changer, UCALL_SYNC);
}

static void flush_writer(struct kvm_vm *vm)
{
	u64 nr = READ_ONCE(*shared(vm, flushes)) + 1;

	WRITE_ONCE(*shared(vm, flushes), nr);
	while (READ_ONCE(*shared(vm, flushes_done)) != nr)
		cpu_relax();
}

/* Is the word written, within @us? */
static bool is_written(u64 *word, long us)
{
	struct timespec start;
	u64 value = READ_ONCE(*word);

	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		if (READ_ONCE(*word) != value)
			return true;
	} while (timespec_to_ns(timespec_elapsed(start)) < us * 1000);
	return false;
}

struct test_case {
	const char *name;
	void (*rely_on_flush)(struct kvm_vcpu *changer, void *page);
	void (*restore)(struct kvm_vcpu *changer, void *page);
	bool page_table;
	bool no_quirk;
	/* It's not by a request to flush TLBs that vCPUs do. */
	bool no_request;
};

static void unmap_page(struct kvm_vcpu *changer, void *page)
{
	TEST_ASSERT(!madvise(page, PAGE_SIZE, MADV_DONTNEED), "Can't unmap the page");
}

static void read_dirty_log(struct kvm_vcpu *changer, void *page)
{
	unsigned long bitmap[1];

	kvm_vm_get_dirty_log(changer->vm, SLOT_X, bitmap);
}

static void delete_memslot(struct kvm_vcpu *changer, void *page)
{
	vm_set_user_memory_region(changer->vm, SLOT_X, KVM_MEM_LOG_DIRTY_PAGES, GPA_X, 0, page);
}

static void create_memslot(struct kvm_vcpu *changer, void *page)
{
	vm_set_user_memory_region(changer->vm, SLOT_X, KVM_MEM_LOG_DIRTY_PAGES, GPA_X, PAGE_SIZE,
				  page);
}

static void sync_page_table(struct kvm_vcpu *changer, void *page)
{
	change(changer, SYNC);
}

static void run_test(const struct test_case *t, bool defer)
{
	u64 deferred = 0, invlpg_requests = 0, requests, late = 0, stale = 0, forgotten = 0;
	struct kvm_vcpu *changer, *writer;
	pthread_t thread;
	u64 *word;
	struct kvm_vm *vm;
	void *page, *alias;
	gpa_t gpa = GPA_X;
	u64 *pte, *table;
	int fd, i;

	vm = __vm_create(VM_SHAPE_DEFAULT, 2, 0);
	if (t->no_quirk)
		vm_enable_cap(vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_SLOT_ZAP_ALL);
	changer = vm_vcpu_add(vm, 0, changer_code);
	writer = vm_vcpu_add(vm, 1, writer_code);
	kvm_arch_vm_finalize_vcpus(vm);

	fd = kvm_memfd_alloc(PAGE_SIZE, false);
	page = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	alias = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	create_memslot(changer, page);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, GPA_Y, SLOT_Y, 1, 0);

	virt_map(vm, OTHER_GVA, GPA_Y, 1);
	if (t->page_table) {
		alias = (void *)align_down((unsigned long)vm_get_pte(vm, OTHER_GVA), PAGE_SIZE);
		gpa = addr_hva2gpa(vm, alias);
	}
	word = (u64 *)alias + 1;

	virt_map(vm, TEST_GVA, gpa, 1);
	pte = vm_get_pte(vm, TEST_GVA);
	table = (void *)align_down((unsigned long)pte, PAGE_SIZE);
	virt_map(vm, SELF_GVA, addr_hva2gpa(vm, table), 1);
	virt_map(vm, ALT_GVA, addr_hva2gpa(vm, table), 1);
	test_index = pte - table;
	self_index = vm_get_pte(vm, SELF_GVA) - table;
	first_pte = *pte;
	second_pte = (*pte & ~PHYSICAL_PAGE_MASK) | GPA_Y;
	self_pte = *vm_get_pte(vm, SELF_GVA);
	sync_global_to_guest(vm, test_index);
	sync_global_to_guest(vm, self_index);
	sync_global_to_guest(vm, first_pte);
	sync_global_to_guest(vm, second_pte);
	sync_global_to_guest(vm, self_pte);

	kvm_pthread_create(&thread, NULL, run_writer, writer);

	for (i = 0; i < NR_ROUNDS; i++) {
		change(changer, MAP_FIRST);
		flush_writer(vm);
		while (!is_written(word, 1000))
			;

		requests = vm_get_stat(vm, remote_tlb_flush_requests);
		change(changer, MAP_SECOND);
		invlpg_requests += vm_get_stat(vm, remote_tlb_flush_requests) - requests;

		stale += is_written(word, 1000);
		t->rely_on_flush(changer, page);
		forgotten += vm_get_stat(vm, remote_tlb_flush_requests) == requests;
		late += is_written(word, 1000);
		if (t->restore)
			t->restore(changer, page);
	}

	WRITE_ONCE(*shared(vm, stop_writer), 1);
	kvm_pthread_join(thread, NULL);
	if (can_set_kvm_param("defer_tlb_flush"))
		deferred = vm_get_stat(vm, remote_tlb_flush_deferred);

	printf("case=%s defer=%d stale=%lu\n", t->name, defer, stale);
	printf("case=%s defer=%d late=%lu\n", t->name, defer, late);
	printf("case=%s defer=%d deferred=%lu\n", t->name, defer, deferred);
	printf("case=%s defer=%d forgotten=%lu\n", t->name, defer, forgotten);
	printf("case=%s defer=%d invlpg_requests=%lu\n", t->name, defer, invlpg_requests);

	TEST_ASSERT(!late, "%s: the guest wrote the page afterwards, in %lu of %d rounds",
		    t->name, late, NR_ROUNDS);
	TEST_ASSERT(t->no_request || forgotten <= MAX_NOISE,
		    "%s: nobody requested a flush, in %lu of %d rounds", t->name, forgotten,
		    NR_ROUNDS);
	TEST_ASSERT(defer || (!deferred && !stale),
		    "%s: INVLPG deferred %lu flushes, %lu times writes went on, but it shouldn't",
		    t->name, deferred, stale);
	TEST_ASSERT(!defer || (deferred >= NR_ROUNDS - MAX_NOISE && invlpg_requests <= MAX_NOISE),
		    "%s: INVLPG deferred %lu flushes in %d rounds, and requested %lu", t->name,
		    deferred, NR_ROUNDS, invlpg_requests);

	kvm_vm_free(vm);
	close(fd);
	munmap(page, PAGE_SIZE);
	if (!t->page_table)
		munmap(alias, PAGE_SIZE);
}

int main(void)
{
	static const struct test_case cases[] = {
		{ .name = "unmap", .rely_on_flush = unmap_page },
		{ .name = "log", .rely_on_flush = read_dirty_log },
		{ .name = "delete", .rely_on_flush = delete_memslot, .restore = create_memslot,
		  .no_request = true },
		{ .name = "delete-no-quirk", .rely_on_flush = delete_memslot,
		  .restore = create_memslot, .no_quirk = true },
		{ .name = "page-table", .rely_on_flush = sync_page_table, .page_table = true },
	};
	size_t i;

	stop_numa_balancing();

	/* With TDP, KVM doesn't intercept INVLPG. */
	TEST_REQUIRE(!kvm_is_tdp_enabled());

	TEST_REQUIRE(get_allowed_cpus(&allowed_cpus) >= 2);
	pin_self_to_nth_cpu(&allowed_cpus, 0);

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		if (!can_set_kvm_param("defer_tlb_flush")) {
			run_test(&cases[i], false);
			continue;
		}
		set_kvm_param(false);
		run_test(&cases[i], false);
		set_kvm_param(true);
		run_test(&cases[i], true);
	}
	return 0;
}
