// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify into which generation MGLRU's aging puts memory that was touched once, and
 * memory that was touched again, whatever the size of its folios.
 *
 * The first access of a page that page tables tell of is not enough to promote it, so
 * that what is touched once and never again doesn't push out what is in use, see
 * LRU_REFS_FLAGS in include/linux/mmzone.h.  Walks of page tables, and the MMU
 * notifiers by which they ask KVM, work on more than one page at a time, but must
 * neither take two pages of one folio for two accesses, nor lose an access.
 *
 * Each case is a size of folios, some of them also at addresses that aren't aligned to
 * it, once in a plain process and once with the memory in a memslot of a VM.  In the
 * VM, have the guest touch the memory, too: its accesses must count.
 *
 * Folios are those of anonymous memory.  Sizes are set in sysfs, and reset at the end;
 * a size that the kernel lacks is left out.  Run as root, with MGLRU's debugfs file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "folio_size.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#include "cgroup_util.h"
#include "lru_gen_util.h"
#include "numa_bind.h"

#define MEM_SIZE	SZ_32M
#define SLOT		10
#define SLOT_GPA	SZ_4G
#define SLOT_GVA	0x100000000ul

static const struct test_case {
	/* As sysfs calls it; NULL if the page size. */
	const char *folio_kib;
	/*
	 * The memory is moved off its alignment by so many pages: few, as a folio that is
	 * mapped by two page tables is found twice.
	 */
	int shift;
} cases[] = {
	{ NULL, 0 }, { "64", 0 }, { "64", 4 }, { "256", 0 },
	{ "512", 0 }, { "1024", 0 }, { "2048", 0 },
};

/* Shared with the guest. */
static u64 page_size;
static u64 nr_pages;

static void guest_code(void)
{
	u64 page;

	for (;;) {
		for (page = 0; page < nr_pages; page++)
			READ_ONCE(*(u64 *)(SLOT_GVA + page * page_size));
		GUEST_SYNC(0);
	}
}

/* Each case has one of its own: of a name that was removed, MGLRU may show the old one. */
static char memcg_name[64];

static void *map_memory(const struct test_case *t)
{
	const u64 size = MEM_SIZE;
	void *area, *mem, *moved;
	u64 offset;

	/* Room to align the memory, and to move it to another place. */
	area = mmap(NULL, 2 * size + SZ_8M, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(area != MAP_FAILED, "mmap: %s", strerror(errno));
	mem = (void *)align_up((u64)area, SZ_2M);
	mem = mmap(mem, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	TEST_ASSERT(mem != MAP_FAILED, "mmap: %s", strerror(errno));
	keep_from_numa_balancing(mem, size);
	memset(mem, 1, size);
	/* khugepaged has no business here any more.  Fails without THP. */
	madvise(mem, size, MADV_NOHUGEPAGE);

	/* Have huge pages mapped by PTEs: a part that is protected is split off. */
	for (offset = 0; offset < size; offset += SZ_2M)
		TEST_ASSERT(!mprotect(mem + offset, page_size, PROT_READ) &&
			    !mprotect(mem + offset, page_size, PROT_READ | PROT_WRITE),
			    "mprotect: %s", strerror(errno));

	if (!t->shift)
		return mem;
	moved = mem + size + SZ_2M + t->shift * page_size;
	moved = mremap(mem, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, moved);
	TEST_ASSERT(moved != MAP_FAILED, "mremap: %s", strerror(errno));
	return moved;
}

static void touch(void *mem)
{
	u64 page;

	/* Aging doesn't flush TLBs, changing protections does. */
	TEST_ASSERT(!mprotect(mem, MEM_SIZE, PROT_READ) &&
		    !mprotect(mem, MEM_SIZE, PROT_READ | PROT_WRITE),
		    "mprotect: %s", strerror(errno));
	for (page = 0; page < nr_pages; page++)
		READ_ONCE(*(u64 *)(mem + page * page_size));
}

static int youngest(const struct memcg_stats *stats)
{
	int node, i, gen = 0;

	for (node = 0; node < stats->nr_nodes; node++)
		for (i = 0; i < stats->nodes[node].nr_gens; i++)
			gen = max(gen, stats->nodes[node].gens[i].gen);
	return gen;
}

/* Ages the cgroup; returns how many pages are in what was its youngest generation. */
static u64 age(void)
{
	struct memcg_stats stats;
	int gen;

	lru_gen_read_memcg_stats(&stats, memcg_name);
	gen = youngest(&stats);
	lru_gen_do_aging(&stats, memcg_name);
	return lru_gen_sum_memcg_stats_for_gen(gen, &stats);
}

/* New memory counts as accessed once, by the fault that brought it. */
static void forget(void)
{
	TEST_ASSERT(set_file("/proc/self/clear_refs", "1"), "clear_refs: %s", strerror(errno));
}

static void run_guest(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
}

static void verify(const struct test_case *t, bool in_vm, const char *what, u64 promoted,
		   bool want)
{
	printf("folio_kib=%s,shift=%d,vm=%d,%s promoted=%lu of %lu\n",
	       t->folio_kib ?: "none", t->shift, in_vm, what, promoted, nr_pages);

	/* What else the process has, and folios that weren't to be had in this size. */
	TEST_ASSERT(want ? promoted > nr_pages - nr_pages / 8 : promoted < nr_pages / 8,
		    "%lu of %lu pages were promoted, %s (folios of %s KiB, moved by %d pages, %s)",
		    promoted, nr_pages, what, t->folio_kib ?: "no", t->shift,
		    in_vm ? "in a memslot" : "plain process");
}

static void verify_case(const struct test_case *t, bool in_vm)
{
	void *mem = map_memory(t);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	if (in_vm) {
		vm = vm_create_with_one_vcpu(&vcpu, guest_code);
		sync_global_to_guest(vm, page_size);
		sync_global_to_guest(vm, nr_pages);
		vm_set_user_memory_region(vm, SLOT, 0, SLOT_GPA, MEM_SIZE, mem);
		virt_map(vm, SLOT_GVA, SLOT_GPA, MEM_SIZE / vm->page_size);
	}

	/* No pass in between: each makes the oldest generation forget its accesses. */
	forget();
	touch(mem);
	verify(t, in_vm, "touched once", age(), false);
	touch(mem);
	verify(t, in_vm, "touched again", age(), true);

	if (in_vm) {
		verify(t, in_vm, "not touched any more", age(), false);
		run_guest(vcpu);
		verify(t, in_vm, "touched by the guest", age(), true);
		kvm_vm_free(vm);
	}
}

static int run_case(const char *cgroup, void *arg)
{
	const struct test_case *t = arg;

	/* Exits with what the assertions say. */
	verify_case(t, false);
	return 0;
}

static int run_case_in_vm(const char *cgroup, void *arg)
{
	const struct test_case *t = arg;

	verify_case(t, true);
	return 0;
}

static void help(char *name)
{
	puts("");
	printf("usage: %s [-h]\n", name);
	puts("");
	exit(0);
}

int main(int argc, char *argv[])
{
	char root[PATH_MAX], *cgroup;
	int vm, ret = 0;
	size_t i;

	if (getopt(argc, argv, "h") != -1)
		help(argv[0]);

	page_size = getpagesize();
	nr_pages = MEM_SIZE / page_size;

	__TEST_REQUIRE(lru_gen_usable(), "MGLRU isn't usable");
	__TEST_REQUIRE(!cg_find_controller_root(root, sizeof(root), "memory"),
		       "Cannot find memory cgroup controller");

	save_folio_sizes();
	restore_whatever_happens();
	for (i = 0; i < ARRAY_SIZE(cases) && !ret; i++) {
		if (!set_folio_size(cases[i].folio_kib)) {
			pr_info("No folios of %s KiB\n", cases[i].folio_kib);
			continue;
		}
		/* A process for each, too, so that nothing is left of the last one. */
		for (vm = 0; vm < 2 && !ret; vm++) {
			snprintf(memcg_name, sizeof(memcg_name),
				 "aging_generations_test.%d.%zu.%d", getpid(), i, vm);
			cgroup = cg_name(root, memcg_name);
			TEST_ASSERT(!cg_create(cgroup), "Cannot create %s: %s", cgroup,
				    strerror(errno));
			ret = cg_run(cgroup, vm ? run_case_in_vm : run_case,
				     (void *)&cases[i]);
			cg_destroy(cgroup);
			free(cgroup);
		}
	}
	return ret;
}
