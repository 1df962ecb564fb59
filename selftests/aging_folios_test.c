// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that the access of any page of a large folio counts, and that the folio is aged as
 * a whole, whatever the page tables that map it look like.
 *
 * The idle page bitmap and DAMON age folios by walking the PTEs that map them, and ask
 * KVM about each run of PTEs: age memory that has folios of several sizes, and that is
 *
 *  - moved, so that folios straddle page tables,
 *  - in VMAs that end in the middle of each folio,
 *  - full of holes, so that folios are mapped in part,
 *  - write-protected by userfaultfd here and there, so that PTEs of a folio differ,
 *
 * and all of this at once, and verify that
 *
 *  - a folio of which one page is accessed, any of those that are mapped, isn't idle, and
 *    others are, for accesses of the process and for those of a guest, with memslots that
 *    meet in the middle of a folio;
 *  - KVM is asked about each page that is mapped once, and about no other, if tracefs is
 *    there to tell.  In how many calls is up to the kernel, and reported.
 *
 * What can't be tested: whether DAMON sees an access, as it doesn't tell about a single
 * folio; that it ages all of it can.  Nor what runs look like that swap or migration
 * entries break up.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/kernel-page-flags.h>
#include <linux/sizes.h>
#include <linux/userfaultfd.h>

#include "folio_size.h"
#include "kvm_util.h"
#include "page_idle.h"
#include "pin_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define PAGE_FLAGS	"/proc/kpageflags"

#define FIRST_SLOT	10
#define TEST_GVA	0x100000000ul
#define TEST_GPA	SZ_4G
#define MAX_MEM_SIZE	SZ_64M
#define MAX_FOLIOS	(MAX_MEM_SIZE / SZ_4K)
#define MAX_FOLIO_PAGES	(SZ_512K / SZ_4K)

#define TRACE_INSTANCE	"/sys/kernel/tracing/instances/aging_folios_test"
#define TRACE_FILE	TRACE_INSTANCE "/trace"
#define TRACE_ENABLE	TRACE_INSTANCE "/events/kvm/kvm_age_hva/enable"
#define DAMON		"/sys/kernel/mm/damon/admin/kdamonds/"

/* What is done to the memory. */
#define MOVED		BIT(0)
#define VMAS		BIT(1)
#define HOLES		BIT(2)
#define UFFD_WP		BIT(3)

static const int layouts[] = { 0, MOVED, VMAS, HOLES, UFFD_WP, MOVED | VMAS | HOLES | UFFD_WP };
static const char * const sizes[] = { NULL, "64", "512" };

/* Shared with the guest: of each folio, the page to read, or the last page, which is none's. */
static u32 targets[MAX_FOLIOS];
static u64 page_size;
static u64 nr_pages;	/* without the last page */
static u64 nr_folios;

static u64 folio_pages;
static int layout;
static const char *folio_kib;

static void *mem;
static u64 *pfns;
static bool *mapped;
static u32 *asked;
static bool *idle;
static bool *large;
static int flags_fd;
static int idle_fd;
static int uffd;
static bool tracing;
static struct kvm_random_state rng;

static struct kvm_vm *vm;
static struct kvm_vcpu *vcpu;
static u32 *guest_targets;

/* The first page and the last one are written for the sake of the dirty log. */
static void guest_code(void)
{
	u64 folio;

	for (;;) {
		/* No branch must tell if a page is accessed, it could be mispredicted. */
		for (folio = 0; folio < nr_folios; folio++)
			READ_ONCE(*(u64 *)(TEST_GVA + READ_ONCE(targets[folio]) * page_size));
		WRITE_ONCE(*(u64 *)TEST_GVA, folio);
		WRITE_ONCE(*(u64 *)(TEST_GVA + nr_pages * page_size), folio);
		GUEST_SYNC(0);
	}
}

static void run_guest(void)
{
	struct ucall uc;

	memcpy(guest_targets, targets, nr_folios * sizeof(*targets));
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
}

static void run_host(void)
{
	u64 folio;

	for (folio = 0; folio < nr_folios; folio++)
		READ_ONCE(*(u64 *)(mem + targets[folio] * page_size));
}

static const char *case_name(void)
{
	static char name[128];

	snprintf(name, sizeof(name), "folio_kib=%s,layout=%s%s%s%s,vm=%d", folio_kib ?: "none",
		 layout & MOVED ? "m" : "", layout & VMAS ? "v" : "",
		 layout & HOLES ? "h" : "", layout & UFFD_WP ? "u" : "", !!vm);
	return name;
}

/* Those of folios that are tails, and of pages on no LRU list, can't be set. */
static void mark_idle(u64 folio)
{
	u64 pfn = pfns[folio * folio_pages];

	write_page_idle(idle_fd, pfn / PAGE_IDLE_BITS, BIT_ULL(pfn % PAGE_IDLE_BITS));
}

static bool is_idle(u64 folio)
{
	u64 pfn = pfns[folio * folio_pages];

	return read_page_idle(idle_fd, pfn / PAGE_IDLE_BITS) & BIT_ULL(pfn % PAGE_IDLE_BITS);
}

static void look_up_mapped_pfns(u64 *to)
{
	u64 page, first;

	for (page = 0; page < nr_pages; page = first) {
		for (; page < nr_pages && !mapped[page]; page++)
			;
		for (first = page; first < nr_pages && mapped[first]; first++)
			;
		if (first > page)
			look_up_pfns(mem + page * page_size, page_size, first - page, to + page);
	}
}

/* Some may not have been to be had, or been split, e.g. by compaction. */
static bool is_large(u64 folio)
{
	u64 flags[MAX_FOLIO_PAGES], page, first = folio * folio_pages;
	ssize_t size = folio_pages * sizeof(*flags);

	if (folio_pages == 1)
		return true;
	TEST_ASSERT(pread(flags_fd, flags, size, pfns[first] * sizeof(*flags)) == size,
		    PAGE_FLAGS ": %s", strerror(errno));
	for (page = 0; page < folio_pages; page++) {
		if (!(flags[page] & BIT_ULL(page ? KPF_COMPOUND_TAIL : KPF_COMPOUND_HEAD)) ||
		    (mapped[first + page] && pfns[first + page] != pfns[first] + page))
			return false;
	}
	return true;
}

static u64 nr_large(void)
{
	u64 folio, nr = 0;

	for (folio = 0; folio < nr_folios; folio++) {
		large[folio] = is_large(folio);
		nr += large[folio];
	}
	return nr;
}

static void drop(u64 page)
{
	TEST_ASSERT(!madvise(mem + page * page_size, page_size, MADV_DONTNEED),
		    "madvise: %s", strerror(errno));
	mapped[page] = false;
}

/* False if userfaultfd can't. */
static bool write_protect_some(void)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP };
	struct uffdio_register reg = {
		.range = { .start = (u64)mem, .len = nr_pages * page_size },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	u64 folio;

	uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg))
		return false;
	for (folio = 1; folio < nr_folios; folio++) {
		struct uffdio_writeprotect wp = {
			.range = {
				.start = (u64)mem +
					 (folio * folio_pages + folio_pages / 3) * page_size,
				.len = page_size,
			},
			.mode = UFFDIO_WRITEPROTECT_MODE_WP,
		};

		TEST_ASSERT(!ioctl(uffd, UFFDIO_WRITEPROTECT, &wp),
			    "UFFDIO_WRITEPROTECT: %s", strerror(errno));
	}
	return true;
}

/* False if the folios aren't to be had. */
static bool map_memory(void)
{
	const u64 size = (nr_pages + 1) * page_size;
	void *area, *moved;
	u64 folio;

	area = mmap(NULL, 2 * size + SZ_8M, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(area != MAP_FAILED, "mmap: %s", strerror(errno));
	mem = (void *)align_up((u64)area, SZ_2M);
	mem = mmap(mem, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	TEST_ASSERT(mem != MAP_FAILED, "mmap: %s", strerror(errno));
	memset(mem, 1, size);
	/* khugepaged has no business here any more.  Fails without THP. */
	madvise(mem, size, MADV_NOHUGEPAGE);
	memset(mapped, true, nr_pages * sizeof(*mapped));

	/*
	 * Small folios wait in batches for being put on LRU lists.  Compaction begins with
	 * having all CPUs do so, but may split large ones.
	 */
	if (folio_pages == 1 && !set_file("/proc/sys/vm/compact_memory", "1"))
		pr_info("Can't drain LRU batches: %s\n", strerror(errno));
	look_up_mapped_pfns(pfns);
	if (nr_large() <= nr_folios / 2)
		return false;

	if (layout & MOVED) {
		moved = mem + align_up(size, SZ_2M) + SZ_2M +
			max_t(u64, folio_pages / 4, 1) * page_size;
		moved = mremap(mem, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, moved);
		TEST_ASSERT(moved != MAP_FAILED, "mremap: %s", strerror(errno));
		mem = moved;
	}
	if (layout & VMAS) {
		for (folio = 0; folio < nr_folios; folio++)
			TEST_ASSERT(!madvise(mem + (2 * folio + 1) * folio_pages / 2 * page_size,
					     folio_pages / 2 * page_size, MADV_DONTFORK),
				    "madvise: %s", strerror(errno));
	}
	uffd = -1;
	if ((layout & UFFD_WP) && !write_protect_some())
		return false;
	if (layout & HOLES) {
		for (folio = 1; folio < nr_folios; folio++) {
			drop(folio * folio_pages + folio_pages / 2 + 1);
			/* Of some, the first page, and with it the head, too. */
			if (folio % 2)
				drop(folio * folio_pages);
		}
	}
	return true;
}

static void unmap_memory(void)
{
	if (uffd >= 0)
		close(uffd);
	munmap(mem, (nr_pages + 1) * page_size);
}

/* Two memslots, which meet in the middle of a folio, each with a page that the guest writes. */
static u64 slot_pages(int i)
{
	u64 first = nr_pages / 2 + folio_pages / 2;

	return i ? nr_pages + 1 - first : first;
}

static void create_vm(void)
{
	u64 first = slot_pages(0) * page_size;

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	TEST_ASSERT_EQ(page_size, vm->page_size);
	vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	/* In another order than that of the host. */
	vm_set_user_memory_region(vm, FIRST_SLOT, KVM_MEM_LOG_DIRTY_PAGES,
				  TEST_GPA + SZ_128M, first, mem);
	vm_set_user_memory_region(vm, FIRST_SLOT + 1, KVM_MEM_LOG_DIRTY_PAGES,
				  TEST_GPA, slot_pages(1) * page_size, mem + first);
	virt_map(vm, TEST_GVA, TEST_GPA + SZ_128M, slot_pages(0));
	virt_map(vm, TEST_GVA + first, TEST_GPA, slot_pages(1));
	sync_global_to_guest(vm, page_size);
	sync_global_to_guest(vm, nr_pages);
	sync_global_to_guest(vm, nr_folios);
	guest_targets = addr_gva2hva(vm, (gva_t)targets);
}

/*
 * Aging doesn't flush TLBs.  Changing protections does, but zaps KVM's mappings, and with
 * them what it knows of accesses; clearing the dirty log doesn't.
 */
static void flush_tlbs(void)
{
	u64 len = (nr_pages + 1) * page_size, written;
	unsigned long *log;
	int i;

	if (!vm) {
		/* Of pages that are write-protected anyway, too. */
		TEST_ASSERT(!mprotect(mem, len, PROT_NONE) &&
			    !mprotect(mem, len, PROT_READ | PROT_WRITE),
			    "mprotect: %s", strerror(errno));
		return;
	}

	log = bitmap_zalloc(nr_pages + 1);
	TEST_ASSERT(log, "No memory");
	for (i = 0; i < 2; i++) {
		written = i ? slot_pages(1) - 1 : 0;
		kvm_vm_get_dirty_log(vm, FIRST_SLOT + i, log);
		TEST_ASSERT(test_bit(written, log), "The guest wrote page %lu of it", written);
		bitmap_zero(log, slot_pages(i));
		__set_bit(written, log);
		kvm_vm_clear_dirty_log(vm, FIRST_SLOT + i, log, 0, slot_pages(i));
	}
	free(log);
}

static void trace_start(void)
{
	int fd = open(TRACE_FILE, O_WRONLY | O_TRUNC);

	TEST_ASSERT(fd >= 0 && set_file(TRACE_ENABLE, "1"), TRACE_FILE ": %s", strerror(errno));
	close(fd);
	memset(asked, 0, nr_pages * sizeof(*asked));
}

/* Counts how often KVM was asked about each page; returns the number of calls. */
static u64 trace_stop(void)
{
	unsigned long start, end, first = (unsigned long)mem, last = first + nr_pages * page_size;
	char line[512], *event;
	FILE *file = fopen(TRACE_FILE, "r");
	u64 nr_calls = 0;

	TEST_ASSERT(file && set_file(TRACE_ENABLE, "0"), TRACE_FILE ": %s", strerror(errno));
	while (fgets(line, sizeof(line), file)) {
		event = strstr(line, "age hva: ");
		if (!event || sscanf(event, "age hva: %lx -- %lx", &start, &end) != 2 ||
		    end <= first || start >= last)
			continue;
		TEST_ASSERT(start >= first && end <= last + page_size && start < end,
			    "%s: asked about %lx to %lx", case_name(), start, end);
		nr_calls++;
		for (; start < min(end, last); start += page_size)
			asked[(start - first) / page_size]++;
	}
	fclose(file);
	return nr_calls;
}

/* Of a folio that could be aged, each page that is mapped must be asked about as often. */
static u64 verify_asked(u64 folio, u64 max)
{
	u64 page, nr = -1ull;

	if (!large[folio])
		return 0;
	for (page = folio * folio_pages; page < (folio + 1) * folio_pages; page++) {
		if (!mapped[page]) {
			TEST_ASSERT(!asked[page], "%s: asked about page %lu, which isn't there",
				    case_name(), page);
			continue;
		}
		if (nr == -1ull)
			nr = asked[page];
		TEST_ASSERT(asked[page] == nr && nr <= max,
			    "%s: asked about page %lu (%lu of folio %lu) %u times, not %lu",
			    case_name(), page, page % folio_pages, folio, asked[page],
			    min(nr, max));
	}
	return nr;
}

static void mark_all_idle(void)
{
	u64 folio, nr_calls = 0, nr_asked = 0, nr = 0;

	nr_large();
	if (vm && tracing)
		trace_start();
	for (folio = 0; folio < nr_folios; folio++)
		mark_idle(folio);
	if (vm && tracing) {
		nr_calls = trace_stop();
		for (folio = 0; folio < nr_folios; folio++)
			nr_asked += verify_asked(folio, 1);
		printf("%s calls=%lu\n", case_name(), nr_calls);
	}
	for (folio = 0; folio < nr_folios; folio++) {
		idle[folio] = large[folio] && is_idle(folio);
		nr += idle[folio];
	}
	printf("%s idle=%lu of %lu\n", case_name(), nr, nr_folios);
	TEST_ASSERT(nr > nr_folios / 2, "%s: only %lu of %lu folios can be aged",
		    case_name(), nr, nr_folios);
	if (vm && tracing)
		TEST_ASSERT(nr_asked > nr_folios / 2, "%s: KVM was asked about %lu of %lu folios",
			    case_name(), nr_asked, nr_folios);
}

static u64 random_mapped_page(u64 folio)
{
	u64 page;

	do {
		page = folio * folio_pages + kvm_random_u32(&rng) % folio_pages;
	} while (!mapped[page]);
	return page;
}

/* Age all folios, access one page of some, and verify that the bitmap knows which ones. */
static void verify_round(int round)
{
	u64 *now = calloc(nr_pages, sizeof(*now)), folio, nr = 0, nr_accessed = 0;
	u64 missed = 0, wrong = 0;
	bool access;

	TEST_ASSERT(now, "No memory");
	mark_all_idle();
	flush_tlbs();
	for (folio = 0; folio < nr_folios; folio++)
		targets[folio] = kvm_random_bool(&rng) ? random_mapped_page(folio) : nr_pages;
	if (vm)
		run_guest();
	else
		run_host();

	look_up_mapped_pfns(now);
	/* The first one has a page that the guest writes. */
	for (folio = 1; folio < nr_folios; folio++) {
		u64 any = random_mapped_page(folio);

		/* The idle bitmap knows nothing of pages that were moved, e.g. by compaction. */
		if (!idle[folio] || now[any] != pfns[any] || !is_large(folio))
			continue;
		access = targets[folio] != nr_pages;
		nr++;
		nr_accessed += access;
		if (is_idle(folio))
			missed += access;
		else
			wrong += !access;
	}
	TEST_ASSERT(!missed, "%s: %lu of %lu folios that were accessed are idle",
		    case_name(), missed, nr_accessed);
	/* CPUs may access pages speculatively, or prefetch. */
	TEST_ASSERT(wrong <= (nr - nr_accessed) / 2, "%s: %lu of %lu idle folios are not",
		    case_name(), wrong, nr - nr_accessed);
	printf("%s round=%d accessed=%lu wrongly_young=%lu of %lu\n", case_name(), round,
	       nr_accessed, wrong, nr);
	free(now);
}

static bool damon_set(const char *file, u64 value)
{
	char path[192], text[32];

	snprintf(path, sizeof(path), DAMON "%s", file);
	snprintf(text, sizeof(text), "%lu", value);
	return set_file(path, text);
}

static void damon_run(u64 pfn)
{
	u64 start = pfn * page_size;

	TEST_ASSERT(damon_set("nr_kdamonds", 1) && damon_set("0/contexts/nr_contexts", 1) &&
		    set_file(DAMON "0/contexts/0/operations", "paddr") &&
		    damon_set("0/contexts/0/monitoring_attrs/intervals/sample_us", 5000) &&
		    damon_set("0/contexts/0/monitoring_attrs/intervals/aggr_us", 100000) &&
		    damon_set("0/contexts/0/monitoring_attrs/intervals/update_us", 1000000) &&
		    damon_set("0/contexts/0/monitoring_attrs/nr_regions/min", 3) &&
		    damon_set("0/contexts/0/monitoring_attrs/nr_regions/max", 3) &&
		    damon_set("0/contexts/0/targets/nr_targets", 1) &&
		    damon_set("0/contexts/0/targets/0/regions/nr_regions", 1) &&
		    damon_set("0/contexts/0/targets/0/regions/0/start", start) &&
		    damon_set("0/contexts/0/targets/0/regions/0/end",
			      start + folio_pages * page_size) &&
		    set_file(DAMON "0/state", "on"), "DAMON: %s", strerror(errno));
	usleep(50000);
	TEST_ASSERT(set_file(DAMON "0/state", "off"), "DAMON: %s", strerror(errno));
	damon_set("nr_kdamonds", 0);
}

/* Have the guest access all of a few folios, DAMON age one of them, and verify it is idle. */
static void verify_damon(void)
{
	const u64 nr_tried = min_t(u64, nr_folios, 4);
	u64 folio, other, page, calls, times;

	for (folio = 0; folio < nr_tried; folio++) {
		if (!is_large(folio))
			continue;
		memset(targets, 0, sizeof(targets));
		for (page = 0; page < folio_pages; page++) {
			u64 p = folio * folio_pages + page;

			targets[page % nr_folios] = mapped[p] ? p : nr_pages;
			if (page % nr_folios == nr_folios - 1 || page == folio_pages - 1)
				run_guest();
		}
		trace_start();
		damon_run(pfns[folio * folio_pages]);
		calls = trace_stop();
		times = verify_asked(folio, -1ull);
		for (other = 0; other < nr_folios; other++) {
			if (other != folio)
				TEST_ASSERT(!verify_asked(other, -1ull),
					    "%s: DAMON asked about folio %lu, not %lu",
					    case_name(), other, folio);
		}
		TEST_ASSERT(times, "%s: DAMON doesn't age folio %lu", case_name(), folio);
		TEST_ASSERT(is_idle(folio), "%s: DAMON has aged folio %lu, but it isn't idle",
			    case_name(), folio);
		printf("%s damon_folio=%lu calls=%lu\n", case_name(), folio, calls / times);
	}
}

/* All the folios, by one system call for those that share a word. */
static void age(void)
{
	u64 folio, word = -1ull, bits = 0, pfn;

	for (folio = 0; folio < nr_folios; folio++) {
		pfn = pfns[folio * folio_pages];
		if (bits && pfn / PAGE_IDLE_BITS != word) {
			write_page_idle(idle_fd, word, bits);
			bits = 0;
		}
		word = pfn / PAGE_IDLE_BITS;
		bits |= BIT_ULL(pfn % PAGE_IDLE_BITS);
	}
	write_page_idle(idle_fd, word, bits);
}

static void measure(int passes)
{
	struct timespec start;
	s64 ns, shortest = 0;
	int i;

	for (i = 0; i < passes; i++) {
		clock_gettime(CLOCK_MONOTONIC, &start);
		age();
		ns = timespec_to_ns(timespec_elapsed(start));
		if (!i || ns < shortest)
			shortest = ns;
	}
	printf("%s pass_min_us=%.1f\n", case_name(), shortest / 1e3);

	/* In a pass that isn't measured, as tracing takes its time. */
	if (vm && tracing) {
		trace_start();
		age();
		printf("%s calls_per_pass=%lu\n", case_name(), trace_stop());
	}
}

static void run_case(bool in_vm, int rounds, int passes, bool damon)
{
	int round;

	if (!map_memory()) {
		pr_info("%s: not to be had\n", case_name());
		unmap_memory();
		return;
	}
	if (in_vm) {
		u64 folio;

		create_vm();
		/* Have all of it mapped. */
		for (round = 0; round < (int)folio_pages; round++) {
			for (folio = 0; folio < nr_folios; folio++) {
				u64 page = folio * folio_pages + round;

				targets[folio] = mapped[page] ? page : nr_pages;
			}
			run_guest();
		}
	}
	for (round = 0; round < rounds; round++)
		verify_round(round);
	if (in_vm && damon && tracing && rounds && folio_pages > 4)
		verify_damon();
	if (passes)
		measure(passes);
	if (in_vm) {
		kvm_vm_free(vm);
		vm = NULL;
	}
	unmap_memory();
}

static bool trace_usable(void)
{
	/* That of a test that was killed goes, with what it has traced. */
	rmdir(TRACE_INSTANCE);
	return !mkdir(TRACE_INSTANCE, 0755) && !access(TRACE_ENABLE, W_OK);
}

static void help(char *name)
{
	puts("");
	printf("usage: %s [-h] [-b bytes] [-m passes] [-n rounds] [-r seed]\n", name);
	puts("");
	printf(" -b: size of the memory (default: 4M)\n");
	printf(" -m: number of passes to take the shortest of (default: 0, no benchmark)\n");
	printf(" -n: number of rounds (default: 4)\n");
	printf(" -r: seed of the random choices (default: 1)\n");
	puts("");
	exit(0);
}

int main(int argc, char *argv[])
{
	int opt, rounds = 4, passes = 0, in_vm;
	u64 size = SZ_4M;
	u32 seed = 1;
	size_t i, j;
	bool damon;

	while ((opt = getopt(argc, argv, "b:hm:n:r:")) != -1) {
		switch (opt) {
		case 'b':
			size = parse_size(optarg);
			break;
		case 'm':
			passes = atoi_positive("Number of passes", optarg);
			break;
		case 'n':
			rounds = atoi_non_negative("Number of rounds", optarg);
			break;
		case 'r':
			seed = atoi_paranoid(optarg);
			break;
		case 'h':
		default:
			help(argv[0]);
			break;
		}
	}
	TEST_ASSERT(size && size <= MAX_MEM_SIZE && !(size % SZ_2M),
		    "Memory must be a multiple of 2M, and 64M at most");
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2));
	idle_fd = open_page_idle();
	flags_fd = open_path_or_exit(PAGE_FLAGS, O_RDONLY);
	/* Which takes pages out of the guest, and what is known of its accesses with them. */
	stop_numa_balancing();
	rng = new_kvm_random_state(seed);
	page_size = getpagesize();
	nr_pages = size / page_size;
	pfns = calloc(nr_pages, sizeof(*pfns));
	mapped = calloc(nr_pages, sizeof(*mapped));
	asked = calloc(nr_pages, sizeof(*asked));
	idle = calloc(nr_pages, sizeof(*idle));
	large = calloc(nr_pages, sizeof(*large));
	TEST_ASSERT(pfns && mapped && asked && idle && large, "No memory");

	tracing = trace_usable();
	if (!tracing)
		pr_info("Not looking at what KVM is asked\n");
	damon = !access(DAMON "nr_kdamonds", W_OK);
	if (!damon)
		pr_info("No DAMON\n");
	errno = 0;

	save_folio_sizes();
	restore_whatever_happens();
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		folio_kib = sizes[i];
		if (!set_folio_size(folio_kib)) {
			pr_info("No folios of %s KiB\n", folio_kib);
			continue;
		}
		folio_pages = folio_kib ? atoi(folio_kib) * SZ_1K / page_size : 1;
		nr_folios = nr_pages / folio_pages;
		for (j = 0; j < ARRAY_SIZE(layouts); j++) {
			layout = layouts[j];
			/* A page is not to be divided.  Benchmarks are of whole folios. */
			if (layout && (folio_pages < 8 || !rounds))
				continue;
			for (in_vm = 0; in_vm < 2; in_vm++)
				run_case(in_vm, rounds, passes, damon);
		}
	}

	rmdir(TRACE_INSTANCE);
	close(idle_fd);
	return 0;
}
