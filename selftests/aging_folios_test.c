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
 * A DAMON that runs already ages folios behind the test's back: there is nothing to test
 * then.  One that is merely configured is left alone, and isn't tested.
 *
 * What can't be tested: whether DAMON sees an access, as it doesn't tell about a single
 * folio; that it ages all of it can.  Nor what runs look like that swap or migration
 * entries break up.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
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
/* More than wait in a CPU's batch for being put on an LRU list. */
#define NR_FILLERS	64

#define TRACE_INSTANCE	"/sys/kernel/tracing/instances/aging_folios_test"
#define TRACE_FILE	TRACE_INSTANCE "/trace"
#define TRACE_ENABLE	TRACE_INSTANCE "/events/kvm/kvm_age_hva/enable"
#define TRACE_FILTER	TRACE_INSTANCE "/events/kvm/kvm_age_hva/filter"
#define DAMON		"/sys/kernel/mm/damon/admin/kdamonds/"
#define DAMON_FILTER	"comm ~ \"kdamond*\""

/* Steps of 10 ms, in which to wait for others. */
#define MAX_TRIES	1000

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
/* The idle page bitmap ages folios in the context of who writes it. */
static char own_filter[64];
static bool made_instance;
static bool damon;
static bool made_kdamond;
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

/* Lest CPUs that speculate beyond the last folio access what was a target before. */
static void clear_targets(void)
{
	u64 i;

	for (i = 0; i < MAX_FOLIOS; i++)
		targets[i] = nr_pages;
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

/* Small folios wait in a batch of this CPU for being put on LRU lists: push them out. */
static void push_out_batch(void)
{
	u64 page, size = NR_FILLERS * page_size;
	char *fillers = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	madvise(fillers, size, MADV_NOHUGEPAGE);
	for (page = 0; page < NR_FILLERS; page++)
		fillers[page * page_size] = 1;
	munmap(fillers, size);
}

/* False if the folios aren't to be had. */
static bool map_memory(void)
{
	const u64 size = (nr_pages + 1) * page_size;
	void *area, *moved;
	u64 folio;

	uffd = -1;
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

	if (folio_pages == 1)
		push_out_batch();
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
	sync_global_to_guest(vm, targets);
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

/* Reclaim and others who age memory ask KVM about the same pages: have them filtered out. */
static void trace_start(const char *filter)
{
	int fd = open(TRACE_FILE, O_WRONLY | O_TRUNC);

	TEST_ASSERT(fd >= 0, TRACE_FILE ": %s", strerror(errno));
	close(fd);
	TEST_ASSERT(set_file(TRACE_FILTER, filter), TRACE_FILTER ": %s", strerror(errno));
	TEST_ASSERT(set_file(TRACE_ENABLE, "1"), TRACE_ENABLE ": %s", strerror(errno));
	memset(asked, 0, nr_pages * sizeof(*asked));
}

static bool trace_has_event(void)
{
	FILE *file = fopen(TRACE_FILE, "r");
	bool found = false;
	char line[512];

	TEST_ASSERT(file, TRACE_FILE ": %s", strerror(errno));
	while (!found && fgets(line, sizeof(line), file))
		found = strstr(line, "age hva: ");
	fclose(file);
	return found;
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

/* False if too few of the folios are large any more. */
static bool mark_all_idle(void)
{
	u64 folio, nr_calls = 0, nr_asked = 0, nr = 0, left;

	/* They may have been moved since, e.g. by compaction. */
	look_up_mapped_pfns(pfns);
	if (vm && tracing)
		trace_start(own_filter);
	for (folio = 0; folio < nr_folios; folio++)
		mark_idle(folio);
	if (vm && tracing)
		nr_calls = trace_stop();

	/* Not until now: a shrinker may split folios that are mapped in part at any time. */
	left = nr_large();
	if (left <= nr_folios / 2)
		return false;
	if (vm && tracing) {
		for (folio = 0; folio < nr_folios; folio++)
			nr_asked += verify_asked(folio, 1);
		printf("%s calls=%lu\n", case_name(), nr_calls);
	}
	for (folio = 0; folio < nr_folios; folio++) {
		idle[folio] = large[folio] && is_idle(folio);
		nr += idle[folio];
	}
	printf("%s idle=%lu of %lu\n", case_name(), nr, left);
	TEST_ASSERT(nr > left / 2, "%s: only %lu of %lu folios can be aged",
		    case_name(), nr, left);
	if (vm && tracing)
		TEST_ASSERT(nr_asked > left / 2, "%s: KVM was asked about %lu of %lu folios",
			    case_name(), nr_asked, left);
	return true;
}

static u64 random_mapped_page(u64 folio)
{
	u64 page;

	do {
		page = folio * folio_pages + kvm_random_u32(&rng) % folio_pages;
	} while (!mapped[page]);
	return page;
}

/*
 * Age all folios, access one page of some, and verify that the bitmap knows which ones.
 * False if there is nothing left to verify it with.
 */
static bool verify_round(int round)
{
	u64 *now, folio, nr = 0, nr_accessed = 0, missed = 0, wrong = 0;
	bool access;

	if (!mark_all_idle()) {
		pr_info("%s: too many folios were split\n", case_name());
		return false;
	}
	now = calloc(nr_pages, sizeof(*now));
	TEST_ASSERT(now, "No memory");
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
	TEST_ASSERT(wrong <= (nr - nr_accessed + 1) / 2, "%s: %lu of %lu idle folios are not",
		    case_name(), wrong, nr - nr_accessed);
	printf("%s round=%d accessed=%lu wrongly_young=%lu of %lu\n", case_name(), round,
	       nr_accessed, wrong, nr);
	free(now);
	return true;
}

/* Empty if it can't be read.  Valid until the next call. */
static const char *read_word(const char *path)
{
	FILE *file = fopen(path, "r");
	static char word[16];

	if (!file || fscanf(file, "%15s", word) != 1)
		*word = '\0';
	if (file)
		fclose(file);
	/* Lest an assertion that fails later is taken for a lack of privileges. */
	errno = 0;
	return word;
}

/* Whoever has it run, be it for other memory: what it ages is hard to tell. */
static bool damon_runs(void)
{
	static const char * const users[] = { "stat", "reclaim", "lru_sort" };
	bool runs = false;
	glob_t states;
	char path[64];
	size_t i;
	int try;

	for (i = 0; i < ARRAY_SIZE(users); i++) {
		snprintf(path, sizeof(path), "/sys/module/damon_%s/parameters/enabled", users[i]);
		if (*read_word(path) == 'Y')
			return true;
	}
	if (glob(DAMON "*/state", 0, NULL, &states)) {
		errno = 0;
		return false;
	}
	for (i = 0; i < states.gl_pathc && !runs; i++) {
		const char *state = read_word(states.gl_pathv[i]);

		/* It can't be read while others look at DAMON's files. */
		for (try = 0; !*state && try < MAX_TRIES / 10; try++) {
			usleep(10000);
			state = read_word(states.gl_pathv[i]);
		}
		runs = !strcmp(state, "on");
	}
	globfree(&states);
	return runs;
}

/* To set the number of kdamonds would throw away those of an administrator. */
static bool damon_usable(void)
{
	bool writable = !access(DAMON "nr_kdamonds", W_OK);

	return !strcmp(read_word(DAMON "nr_kdamonds"), "0") && writable;
}

/* As set_file(), but files can't be written while others look at DAMON's files, either. */
static bool damon_set_file(const char *path, const char *value)
{
	int try;

	for (try = 0; !set_file(path, value); try++) {
		if (errno != EBUSY || try == MAX_TRIES)
			return false;
		usleep(10000);
	}
	return true;
}

static void damon_remove(void)
{
	if (!made_kdamond)
		return;
	/* Fails if it never was on. */
	damon_set_file(DAMON "0/state", "off");
	damon_set_file(DAMON "nr_kdamonds", "0");
	made_kdamond = false;
}

static bool damon_set(const char *file, u64 value)
{
	char path[192], text[32];

	snprintf(path, sizeof(path), DAMON "%s", file);
	snprintf(text, sizeof(text), "%lu", value);
	return damon_set_file(path, text);
}

/* False if DAMON is in use by now, or can't do this. */
static bool damon_run(u64 pfn)
{
	u64 start = pfn * page_size;
	bool on;
	int try;

	if (!damon_usable())
		return false;
	made_kdamond = set_file(DAMON "nr_kdamonds", "1");
	if (!made_kdamond && errno == EBUSY)
		return false;
	TEST_ASSERT(made_kdamond && damon_set("0/contexts/nr_contexts", 1) &&
		    damon_set_file(DAMON "0/contexts/0/operations", "paddr") &&
		    damon_set("0/contexts/0/monitoring_attrs/intervals/sample_us", 5000) &&
		    damon_set("0/contexts/0/monitoring_attrs/intervals/aggr_us", 100000) &&
		    damon_set("0/contexts/0/monitoring_attrs/intervals/update_us", 1000000) &&
		    damon_set("0/contexts/0/monitoring_attrs/nr_regions/min", 3) &&
		    damon_set("0/contexts/0/monitoring_attrs/nr_regions/max", 3) &&
		    damon_set("0/contexts/0/targets/nr_targets", 1) &&
		    damon_set("0/contexts/0/targets/0/regions/nr_regions", 1) &&
		    damon_set("0/contexts/0/targets/0/regions/0/start", start) &&
		    damon_set("0/contexts/0/targets/0/regions/0/end",
			      start + folio_pages * page_size), "DAMON: %s", strerror(errno));
	on = set_file(DAMON "0/state", "on");
	TEST_ASSERT(on || errno == EBUSY || errno == EINVAL, "DAMON: %s", strerror(errno));
	/* It may get to it late.  "off" waits for it to finish the folio. */
	for (try = 0; on && !trace_has_event() && try < MAX_TRIES; try++)
		usleep(10000);
	TEST_ASSERT(!on || damon_set_file(DAMON "0/state", "off"), "DAMON: %s", strerror(errno));
	damon_remove();
	return on;
}

/* Have the guest access all of a few folios, DAMON age one of them, and verify it is idle. */
static void verify_damon(void)
{
	const u64 nr_tried = min_t(u64, nr_folios, 4);
	u64 folio, other, page, calls, times;
	bool done;

	for (folio = 0; folio < nr_tried; folio++) {
		if (!is_large(folio))
			continue;
		clear_targets();
		for (page = 0; page < folio_pages; page++) {
			u64 p = folio * folio_pages + page;

			targets[page % nr_folios] = mapped[p] ? p : nr_pages;
			if (page % nr_folios == nr_folios - 1 || page == folio_pages - 1)
				run_guest();
		}
		trace_start(DAMON_FILTER);
		done = damon_run(pfns[folio * folio_pages]);
		calls = trace_stop();
		if (!done) {
			pr_info("DAMON is in use, or can't do paddr\n");
			damon = false;
			errno = 0;
			return;
		}
		/* It may have been split or moved meanwhile. */
		if (!is_large(folio))
			continue;
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
		trace_start(own_filter);
		age();
		printf("%s calls_per_pass=%lu\n", case_name(), trace_stop());
	}
}

static void run_case(bool in_vm, int rounds, int passes)
{
	bool good = true;
	int round;

	clear_targets();
	if (!map_memory()) {
		pr_info("%s: not to be had\n", case_name());
		errno = 0;
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
	for (round = 0; round < rounds && good; round++)
		good = verify_round(round);
	if (good && in_vm && damon && tracing && rounds && folio_pages > 4)
		verify_damon();
	if (good && passes)
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
	made_instance = !mkdir(TRACE_INSTANCE, 0755);
	return made_instance && !access(TRACE_ENABLE, W_OK);
}

/* By the task's name: its number isn't what tracing knows if it is in a PID namespace. */
static void set_own_filter(void)
{
	char name[16];

	TEST_ASSERT(!prctl(PR_GET_NAME, name), "prctl: %s", strerror(errno));
	snprintf(own_filter, sizeof(own_filter), "comm == \"%s\"", name);
}

static void clean_up(void)
{
	damon_remove();
	if (!made_instance)
		return;
	/* The instance can't be removed while a file of it is open, as if an assertion fails. */
	syscall(__NR_close_range, 3, ~0u, 0);
	rmdir(TRACE_INSTANCE);
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
	cpu_set_t cpus;
	size_t i, j;

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
			seed = atoi_positive("Seed", optarg);
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
	page_size = getpagesize();
	__TEST_REQUIRE(page_size == vm_guest_mode_params[VM_MODE_DEFAULT].page_size,
		       "Guests have pages of another size than the host");
	__TEST_REQUIRE(!damon_runs(), "DAMON is running, and ages folios, too");
	idle_fd = open_page_idle();
	flags_fd = open_path_or_exit(PAGE_FLAGS, O_RDONLY);
	/* Which takes pages out of the guest, and what is known of its accesses with them. */
	stop_numa_balancing();
	rng = new_kvm_random_state(seed);
	nr_pages = size / page_size;
	pfns = calloc(nr_pages, sizeof(*pfns));
	mapped = calloc(nr_pages, sizeof(*mapped));
	asked = calloc(nr_pages, sizeof(*asked));
	idle = calloc(nr_pages, sizeof(*idle));
	large = calloc(nr_pages, sizeof(*large));
	TEST_ASSERT(pfns && mapped && asked && idle && large, "No memory");

	save_folio_sizes();
	at_exit = clean_up;
	restore_whatever_happens();

	set_own_filter();
	tracing = trace_usable();
	if (!tracing)
		pr_info("Not looking at what KVM is asked\n");
	damon = damon_usable();
	if (!damon)
		pr_info("No DAMON, or it is configured already\n");
	errno = 0;

	/* The folios that wait for being put on a list are those of this CPU. */
	get_allowed_cpus(&cpus);
	pin_self_to_nth_cpu(&cpus, 0);
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
				run_case(in_vm, rounds, passes);
		}
	}

	close(idle_fd);
	return 0;
}
