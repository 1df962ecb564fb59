// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that TLB flushes that INVLPG defers are done before KVM relies on them.
 *
 * One vCPU, the writer, writes a page again and again, and never exits by itself.
 * Another one, the changer, re-points the PTE to a second page and executes INVLPG,
 * whereupon KVM drops the SPTE.  The writer, which wasn't told, may go on to write the
 * first page by means of its TLB, with no SPTE left to tell.  Then
 *  - the host punches a hole into a guest_memfd, where the page is;
 *  - the host unmaps the page;
 *  - the host reads the memslot's dirty log;
 *  - the host deletes the memslot, with and without KVM_X86_QUIRK_SLOT_ZAP_ALL;
 *  - the page, a page table, is synchronized, i.e. KVM is to learn of writes to it.
 * Verify that the writer has ceased to write the page once that is done, and that KVM
 * requested a flush for that.  The host looks at the page by means of another mapping,
 * which has nothing to do with the VM.  A page of a guest_memfd is freed, and has no other
 * mapping, lest the host flush TLBs because of it: the writer reads that one, and says
 * what it finds.
 *
 * Verify also that the writer's own INVLPG flushes all of its TLB if a flush was deferred,
 * even if its page tables are others, none of which is out of sync; that the next one
 * doesn't, as nothing was deferred in between; and that nobody is asked to flush if the
 * host unmaps the page after that.
 *
 * What isn't tested: zapping a range of gfns for other reasons.  APICv has KVM zap a page,
 * but with shadow paging only on VMX (without EPT), as SVM wants NPT for it.  VFIO has it
 * zap everything, which finds SPTEs for as long as a vCPU runs.
 *
 * How often the writer really did write the page in between, i.e. was still going to be
 * stopped, is reported: without that, there was nothing to be late with.  On an
 * emulated machine, it's stopped by any exit: the host's own flush of its TLBs when it
 * unmaps the page, and its waiting for readers when it deletes the memslot.  Only KVM's
 * requests tell in these cases.
 */
#include <fcntl.h>
#include <linux/falloc.h>
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
/* What the second page has, where nobody writes it. */
#define SECOND_VALUE	0x5ec0ad

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

/* From a writer that reads: what it has read, and how often. */
static u64 seen;
static u64 nr_reads;

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

static void flush_if_asked_to(u64 *nr)
{
	if (READ_ONCE(flushes) == *nr)
		return;

	++*nr;
	invlpg(TEST_GVA);
	WRITE_ONCE(flushes_done, *nr);
}

static void writer_code(void)
{
	u64 value = 0, nr = 0;

	while (!READ_ONCE(stop_writer)) {
		/* Never present, should it be a PTE. */
		value += 2;
		WRITE_ONCE(*guest_word, value);
		flush_if_asked_to(&nr);
	}
	GUEST_DONE();
}

static void reader_code(void)
{
	u64 reads = 0, nr = 0;

	while (!READ_ONCE(stop_writer)) {
		WRITE_ONCE(seen, READ_ONCE(*guest_word));
		WRITE_ONCE(nr_reads, ++reads);
		flush_if_asked_to(&nr);
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
	/* The page is in a guest_memfd, and the writer reads it. */
	bool guest_memfd;
	/* The writer has a copy of the page tables. */
	bool copy_tables;
};

struct test_vm {
	struct kvm_vm *vm;
	struct kvm_vcpu *changer, *writer;
	pthread_t thread;
	/* In the first page, and in the second one. */
	u64 *word, *second_word;
	void *page, *alias;
	bool reads;
	int fd;
};

/* The guest_memfd of the VM that is being tested. */
static int gmem;

static void punch_hole(struct kvm_vcpu *changer, void *page)
{
	TEST_ASSERT(!fallocate(gmem, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_SIZE),
		    "Can't punch a hole");
}

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

/* Has the writer read something else than what the second page has? */
static bool is_read(struct kvm_vm *vm)
{
	u64 nr = READ_ONCE(*shared(vm, nr_reads));

	/* The first of them may have begun before. */
	while (READ_ONCE(*shared(vm, nr_reads)) < nr + 2)
		cpu_relax();
	return READ_ONCE(*shared(vm, seen)) != SECOND_VALUE;
}

static bool is_used(struct test_vm *t)
{
	return t->reads ? is_read(t->vm) : is_written(t->word, 1000);
}

static gpa_t copy_table(struct kvm_vm *vm, gpa_t gpa, int level)
{
	gpa_t copy = vm_alloc_page_table(vm);
	u64 *from = addr_gpa2hva(vm, gpa), *to = addr_gpa2hva(vm, copy);
	size_t i;

	for (i = 0; i < PAGE_SIZE / sizeof(*from); i++) {
		to[i] = from[i];
		if (level > 1 && is_present_pte(&vm->mmu, &from[i]))
			to[i] = (from[i] & ~PHYSICAL_PAGE_MASK) |
				copy_table(vm, from[i] & PHYSICAL_PAGE_MASK, level - 1);
	}
	return copy;
}

static bool has_guest_memfd(struct kvm_vm *vm)
{
	u64 flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;

	return (vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS) & flags) == flags;
}

static void create_vm(struct test_vm *v, const struct test_case *t)
{
	gpa_t gpa = GPA_X;
	u64 *pte, *table;
	struct kvm_vm *vm;

	v->vm = vm = __vm_create(VM_SHAPE_DEFAULT, 2, 0);
	if (t->no_quirk)
		vm_enable_cap(vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_SLOT_ZAP_ALL);
	v->reads = t->guest_memfd;
	v->changer = vm_vcpu_add(vm, 0, changer_code);
	v->writer = vm_vcpu_add(vm, 1, v->reads ? reader_code : writer_code);
	kvm_arch_vm_finalize_vcpus(vm);

	v->fd = kvm_memfd_alloc(PAGE_SIZE, false);
	v->page = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd);
	v->alias = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd);
	if (t->guest_memfd) {
		gmem = vm_create_guest_memfd(vm, PAGE_SIZE, GUEST_MEMFD_FLAG_MMAP |
					     GUEST_MEMFD_FLAG_INIT_SHARED);
		vm_set_user_memory_region2(vm, SLOT_X, KVM_MEM_GUEST_MEMFD, GPA_X, PAGE_SIZE,
					   v->page, gmem, 0);
	} else {
		create_memslot(v->changer, v->page);
	}
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, GPA_Y, SLOT_Y, 1, 0);
	v->second_word = (u64 *)addr_gpa2hva(vm, GPA_Y) + 1;
	*v->second_word = SECOND_VALUE;

	v->word = (u64 *)v->alias + 1;
	virt_map(vm, OTHER_GVA, GPA_Y, 1);
	if (t->page_table) {
		table = (void *)align_down((unsigned long)vm_get_pte(vm, OTHER_GVA), PAGE_SIZE);
		gpa = addr_hva2gpa(vm, table);
		v->word = table + 1;
	}

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

	if (t->copy_tables) {
		struct kvm_sregs sregs;

		vcpu_sregs_get(v->writer, &sregs);
		sregs.cr3 = copy_table(vm, vm->mmu.pgd, vm->mmu.pgtable_levels);
		vcpu_sregs_set(v->writer, &sregs);
	}
	kvm_pthread_create(&v->thread, NULL, run_writer, v->writer);
}

static void free_vm(struct test_vm *v)
{
	kvm_vm_free(v->vm);
	close(v->fd);
	if (v->reads)
		close(gmem);
	munmap(v->page, PAGE_SIZE);
	munmap(v->alias, PAGE_SIZE);
}

static void stop(struct test_vm *v)
{
	WRITE_ONCE(*shared(v->vm, stop_writer), 1);
	kvm_pthread_join(v->thread, NULL);
}

static u64 nr_deferred(struct kvm_vm *vm)
{
	return has_kvm_param() ? vm_get_stat(vm, remote_tlb_flush_deferred) : 0;
}

/* Leaves the writer with a TLB entry for the first page. */
static void map_first(struct test_vm *v)
{
	change(v->changer, MAP_FIRST);
	flush_writer(v->vm);
	while (!is_used(v))
		;
}

static void run_test(const struct test_case *t, bool defer)
{
	u64 deferred = 0, invlpg_requests = 0, requests, late = 0, stale = 0, forgotten = 0;
	struct test_vm v;
	struct kvm_vm *vm;
	int i;

	create_vm(&v, t);
	vm = v.vm;

	for (i = 0; i < NR_ROUNDS; i++) {
		u64 before;

		map_first(&v);

		requests = vm_get_stat(vm, remote_tlb_flush_requests);
		before = nr_deferred(vm);
		change(v.changer, MAP_SECOND);
		invlpg_requests += vm_get_stat(vm, remote_tlb_flush_requests) - requests;
		deferred += nr_deferred(vm) - before;

		stale += is_used(&v);
		t->rely_on_flush(v.changer, v.page);
		forgotten += vm_get_stat(vm, remote_tlb_flush_requests) == requests;
		late += is_used(&v);
		if (t->restore)
			t->restore(v.changer, v.page);
	}

	stop(&v);

	printf("case=%s defer=%d stale=%lu\n", t->name, defer, stale);
	printf("case=%s defer=%d late=%lu\n", t->name, defer, late);
	printf("case=%s defer=%d deferred=%lu\n", t->name, defer, deferred);
	printf("case=%s defer=%d forgotten=%lu\n", t->name, defer, forgotten);
	printf("case=%s defer=%d invlpg_requests=%lu\n", t->name, defer, invlpg_requests);

	TEST_ASSERT(!late, "%s: the guest %s the page afterwards, in %lu of %d rounds",
		    t->name, v.reads ? "read" : "wrote", late, NR_ROUNDS);
	TEST_ASSERT(t->no_request || forgotten <= MAX_NOISE,
		    "%s: nobody requested a flush, in %lu of %d rounds", t->name, forgotten,
		    NR_ROUNDS);
	TEST_ASSERT(defer || (!deferred && !stale),
		    "%s: INVLPG deferred %lu flushes, accesses went on %lu times, but shouldn't",
		    t->name, deferred, stale);
	TEST_ASSERT(!defer || (deferred >= NR_ROUNDS - MAX_NOISE && invlpg_requests <= MAX_NOISE),
		    "%s: INVLPG deferred %lu flushes in %d rounds, and requested %lu", t->name,
		    deferred, NR_ROUNDS, invlpg_requests);

	free_vm(&v);
}

/* How often the writer's INVLPG flushes all of its TLB. */
static u64 count_own_flushes(struct test_vm *v)
{
	u64 nr = vcpu_get_stat(v->writer, tlb_flush);

	flush_writer(v->vm);
	return vcpu_get_stat(v->writer, tlb_flush) - nr;
}

static void run_own_test(const struct test_case *t, bool defer)
{
	u64 sync_requests = 0, sync_deferred = 0, requests, deferred;
	u64 own = 0, again = 0, asked = 0;
	struct test_vm v;
	int i;

	create_vm(&v, t);

	for (i = 0; i < NR_ROUNDS; i++) {
		/* Loading CR3 synchronizes the page table. */
		requests = vm_get_stat(v.vm, remote_tlb_flush_requests);
		deferred = nr_deferred(v.vm);
		change(v.changer, MAP_FIRST);
		sync_requests += vm_get_stat(v.vm, remote_tlb_flush_requests) - requests;
		sync_deferred += nr_deferred(v.vm) - deferred;
		map_first(&v);

		change(v.changer, MAP_SECOND);
		own += !!count_own_flushes(&v);
		again += !!count_own_flushes(&v);
		if (t->copy_tables)
			continue;

		/* Have an SPTE that is to be dropped when the page table is synchronized. */
		while (!is_written(v.second_word, 1000))
			;

		requests = vm_get_stat(v.vm, remote_tlb_flush_requests);
		unmap_page(v.changer, v.page);
		asked += vm_get_stat(v.vm, remote_tlb_flush_requests) - requests;
	}

	stop(&v);

	printf("case=%s defer=%d own=%lu\n", t->name, defer, own);
	printf("case=%s defer=%d again=%lu\n", t->name, defer, again);
	printf("case=%s defer=%d asked=%lu\n", t->name, defer, asked);
	printf("case=%s defer=%d sync_deferred=%lu\n", t->name, defer, sync_deferred);
	printf("case=%s defer=%d sync_requests=%lu\n", t->name, defer, sync_requests);

	TEST_ASSERT(defer || !sync_deferred,
		    "%s: loading CR3 deferred %lu flushes, but shouldn't", t->name, sync_deferred);
	if (defer) {
		TEST_ASSERT(own >= NR_ROUNDS - MAX_NOISE,
			    "%s: INVLPG flushed the vCPU's own TLB in %lu of %d rounds", t->name,
			    own, NR_ROUNDS);
		TEST_ASSERT(again <= MAX_NOISE,
			    "%s: INVLPG flushed the vCPU's own TLB again, in %lu of %d rounds",
			    t->name, again, NR_ROUNDS);
		TEST_ASSERT(asked <= MAX_NOISE,
			    "%s: a flush was requested that vCPUs had done, in %lu of %d rounds",
			    t->name, asked, NR_ROUNDS);
		TEST_ASSERT(t->copy_tables || sync_deferred >= NR_ROUNDS - MAX_NOISE,
			    "%s: loading CR3 deferred %lu flushes in %d rounds, and requested %lu",
			    t->name, sync_deferred, NR_ROUNDS, sync_requests);
	}

	free_vm(&v);
}

static void run_case(const struct test_case *t, bool defer)
{
	if (t->rely_on_flush)
		run_test(t, defer);
	else
		run_own_test(t, defer);
}

int main(void)
{
	static const struct test_case cases[] = {
		{ .name = "guest-memfd", .rely_on_flush = punch_hole, .guest_memfd = true },
		{ .name = "own" },
		{ .name = "own-tables", .copy_tables = true },
		{ .name = "unmap", .rely_on_flush = unmap_page },
		{ .name = "log", .rely_on_flush = read_dirty_log },
		{ .name = "delete", .rely_on_flush = delete_memslot, .restore = create_memslot,
		  .no_request = true },
		{ .name = "delete-no-quirk", .rely_on_flush = delete_memslot,
		  .restore = create_memslot, .no_quirk = true },
		{ .name = "page-table", .rely_on_flush = sync_page_table, .page_table = true },
	};
	struct kvm_vm *vm;
	bool has_gmem;
	size_t i;

	stop_numa_balancing();

	/* With TDP, KVM doesn't intercept INVLPG. */
	TEST_REQUIRE(!kvm_is_tdp_enabled());

	TEST_REQUIRE(get_allowed_cpus(&allowed_cpus) >= 2);
	pin_self_to_nth_cpu(&allowed_cpus, 0);

	vm = vm_create_barebones();
	has_gmem = has_guest_memfd(vm);
	kvm_vm_free(vm);

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		if (cases[i].guest_memfd && !has_gmem) {
			print_skip("%s: a VM without private memory has no guest_memfd",
				   cases[i].name);
			continue;
		}
		if (!can_set_kvm_param("defer_tlb_flush")) {
			/* Whatever it is set to; without it, KVM defers nothing. */
			run_case(&cases[i],
				 has_kvm_param() && get_kvm_param_bool("defer_tlb_flush"));
			continue;
		}
		set_kvm_param(false);
		run_case(&cases[i], false);
		set_kvm_param(true);
		run_case(&cases[i], true);
	}
	return 0;
}
