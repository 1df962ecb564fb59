// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify which pages KVM reports as young, and makes old, when MGLRU ages memory.
 *
 * MGLRU asks KVM about up to BITS_PER_LONG pages at once, by a mask, and KVM traces what
 * it was asked and what it said.  Age by MGLRU's debugfs file, read the trace, and
 * compare it with a model of what the guests have accessed: KVM must report those pages
 * of the mask as young that were accessed and weren't aged since, and must leave alone
 * those that are not in the mask.
 *
 * Masks have holes as the memory has: pages that are not there, and pages that another
 * memory cgroup is charged for, which are not to be aged together with those of the
 * first one, between them.  A mistake about where a bit belongs shows, as memslots are in
 * another order in guest memory than in host memory, begin and end in the middle of
 * windows, have holes between them, and two of them are over the same host memory, and as
 * a second VM shares a part of it.
 *
 * Last, age pages that a vCPU has accessed and keeps faulting on: SPTEs that change
 * while KVM ages them must be reported as young.
 *
 * What can't be tested: accesses to pages that are mapped and old, as KVM doesn't
 * flush TLBs when it makes a page old.  Huge mappings, as MGLRU asks about small
 * folios only this way.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "pin_util.h"
#include "processor.h"
#include "test_util.h"
#include "trace_count.h"
#include "ucall_common.h"

#include "cgroup_util.h"
#include "lru_gen_util.h"
#include "numa_bind.h"

#define TRACE_INSTANCE	"/sys/kernel/tracing/instances/aging_masked_test"
#define TRACE_EVENTS	TRACE_INSTANCE "/events/kvm/"
#define TRACE_FILE	TRACE_INSTANCE "/trace"

static char memcg_names[2][64];

/* Pages of host memory, of the size that the host uses. */
#define NR_PAGES	256
#define NR_FAULT_PAGES	1024
#define MAX_PAGES	NR_FAULT_PAGES
/* More than wait in a CPU's batch for being put on an LRU list. */
#define NR_FILLERS	64

#define MAX_SLOTS	4
#define FIRST_SLOT	10
#define SLOT_GPA(slot)	(SZ_4G + (u64)(slot) * SZ_128M)
#define SLOT_GVA(slot)	(0x100000000ul + (slot) * SZ_128M)

/* Rounds in which pages were migrated don't count; so many may not in a row. */
#define MAX_RETRIES	10

/* Shared with the guest. */
enum access {
	ACCESS_NONE,
	ACCESS_READ,
	ACCESS_WRITE,
};
struct guest_slot {
	u64 gva;
	u64 nr_pages;
	u8 accesses[MAX_PAGES];
};
static struct guest_slot guest_slots[MAX_SLOTS];
static u64 page_size;
static u64 nr_passes;

/* A memslot: pages [first, first + nr) of the host memory. */
struct slot {
	u64 first;
	u64 nr;
	/* Where guest memory has it: the order isn't that of host memory. */
	int gpa_idx;
};

struct test_vm {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	const struct slot *slots;
	struct guest_slot *guest_slots;
	/* The model. */
	bool young[MAX_PAGES];
};

/* Pages 40 to 46 and 100 to 109 are in no memslot, 60 to 69 are in two. */
static const struct slot small_slots[] = {
	{ .first = 8,	.nr = 32,	.gpa_idx = 3 },
	{ .first = 47,	.nr = 53,	.gpa_idx = 1 },
	{ .first = 60,	.nr = 10,	.gpa_idx = 2 },
	{ .first = 110,	.nr = 140,	.gpa_idx = 0 },
	{ },
};

static const struct slot shared_slots[] = {
	{ .first = 30,	.nr = 30,	.gpa_idx = 1 },
	{ .first = 120,	.nr = 3,	.gpa_idx = 0 },
	{ },
};

static char *cgroups[2];
static void *mem;
static u64 mem_pages;
/* Which cgroup is charged for the page, -1 if it isn't there. */
static int owner[MAX_PAGES];
static bool asked[MAX_PAGES];
static u64 nr_asked, nr_asked_young, nr_windows;
static struct kvm_random_state rng;

static void guest_code(void)
{
	u64 slot, page;

	for (;;) {
		for (slot = 0; slot < MAX_SLOTS; slot++) {
			struct guest_slot *s = &guest_slots[slot];

			for (page = 0; page < s->nr_pages; page++) {
				u64 *p = (u64 *)(s->gva + page * page_size);

				if (READ_ONCE(s->accesses[page]) == ACCESS_READ)
					READ_ONCE(*p);
				else if (READ_ONCE(s->accesses[page]) == ACCESS_WRITE)
					WRITE_ONCE(*p, page);
			}
		}
		WRITE_ONCE(nr_passes, nr_passes + 1);
		GUEST_SYNC(0);
	}
}

static void run_guest(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
}

static bool write_file(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_TRUNC);
	bool done;

	if (fd < 0)
		return false;
	done = write(fd, value, strlen(value)) == (ssize_t)strlen(value);
	close(fd);
	return done;
}

static bool trace_start(void)
{
	/* That of a test that was killed goes, with what it has traced. */
	rmdir(TRACE_INSTANCE);
	return !mkdir(TRACE_INSTANCE, 0755) &&
	       write_file(TRACE_EVENTS "kvm_age_hva_masked/enable", "1");
}

/*
 * What keeps KVM's answers from being what guests have accessed: migration zaps mappings, and
 * reclaim, e.g. kswapd's, ages pages without being traced.  DAMON and the idle page bitmap age
 * them, too, but count nothing: they aren't known of here.
 */
static u64 nr_disturbances(void)
{
	static const char * const names[] = {
		"pgmigrate_success", "pgscan_kswapd", "pgscan_direct", "pgscan_khugepaged",
		"pgscan_proactive",
	};
	char line[128], name[64];
	u64 nr = 0, n;
	size_t i;
	FILE *file;

	/*
	 * CPUs keep what they have counted to themselves for a while.  If that can't be
	 * changed, an assertion mustn't be taken for a lack of privileges.
	 */
	if (!write_file("/proc/sys/vm/stat_refresh", "1"))
		errno = 0;
	file = fopen("/proc/vmstat", "r");
	TEST_ASSERT(file, "/proc/vmstat: %s", strerror(errno));
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%63s %lu", name, &n) != 2)
			continue;
		for (i = 0; i < ARRAY_SIZE(names); i++)
			nr += strcmp(name, names[i]) ? 0 : n;
	}
	fclose(file);
	return nr;
}

/*
 * What KVM was asked about the window, and its answer.  Returns the first VM whose
 * model says the same, from the given one on: VMs are asked in an order of KVM's choice.
 */
static int find_answer(struct test_vm **vms, int vm, u64 first, unsigned long mask,
		       unsigned long young)
{
	for (; vms[vm]; vm++) {
		unsigned long expected = 0;
		int i;

		for (i = 0; i < BITS_PER_LONG; i++) {
			if ((mask & BIT(i)) && vms[vm]->young[first + i])
				expected |= BIT(i);
		}
		if (expected == young)
			return vm;
	}
	return -1;
}

static void apply_answer(struct test_vm *vm, u64 first, unsigned long mask)
{
	int i;

	for (i = 0; i < BITS_PER_LONG; i++) {
		if (mask & BIT(i)) {
			nr_asked_young += vm->young[first + i];
			vm->young[first + i] = false;
			asked[first + i] = true;
			nr_asked++;
		}
	}
}

static void verify_mask(u64 first, unsigned long mask, int cgroup)
{
	int i;

	TEST_ASSERT(first + fls64(mask) <= mem_pages,
		    "Asked from page %lu on for %lx, there are %lu", first, mask, mem_pages);
	for (i = 0; i < BITS_PER_LONG; i++)
		TEST_ASSERT(!(mask & BIT(i)) || owner[first + i] == cgroup,
			    "Asked about page %lu, which isn't the cgroup's", first + i);
}

/*
 * Each window is asked about once per VM, by events that follow each other.  False
 * if an answer isn't the model's, which is left as it was then.
 */
static bool verify_trace(struct test_vm **vms, int cgroup)
{
	unsigned long start, mask, young, answers[2];
	int nr_vms = vms[1] ? 2 : 1, nr = 0, vm;
	u64 first = 0, size = mem_pages * page_size;
	char line[512], *event;
	FILE *file = fopen(TRACE_FILE, "r");
	bool good = true;

	TEST_ASSERT(file, TRACE_FILE ": %s", strerror(errno));
	while (good && fgets(line, sizeof(line), file)) {
		event = strstr(line, "age hva: ");
		if (!event || sscanf(event, "age hva: %lx mask %lx young %lx",
				     &start, &mask, &young) != 3)
			continue;
		if (start < (unsigned long)mem || start >= (unsigned long)mem + size)
			continue;
		first = (start - (unsigned long)mem) / page_size;
		verify_mask(first, mask, cgroup);
		TEST_ASSERT(!(young & ~mask), "Asked about %lx, %lx are young", mask, young);
		answers[nr++] = young;
		if (nr < nr_vms)
			continue;
		nr = 0;
		nr_windows++;
		if (nr_vms == 1) {
			good = find_answer(vms, 0, first, mask, answers[0]) == 0;
		} else {
			/* If both say the same, both VMs must. */
			vm = find_answer(vms, 0, first, mask, answers[0]);
			good = vm >= 0;
			if (good && vm == 0)
				good = find_answer(vms, 1, first, mask, answers[1]) == 1;
			else if (good)
				good = find_answer(vms, 0, first, mask, answers[1]) == 0;
		}
		if (!good) {
			printf("pages from %lu on: mask %lx young %lx", first, mask, answers[0]);
			printf(nr_vms == 2 ? ", other VM %lx\n" : "\n", answers[1]);
			break;
		}
		for (vm = 0; vm < nr_vms; vm++)
			apply_answer(vms[vm], first, mask);
	}
	fclose(file);
	return good;
}

static void age(int cgroup)
{
	struct memcg_stats stats;

	/* The walk is that of the processes in the cgroup. */
	TEST_ASSERT(!cg_enter_current(cgroups[cgroup]), "Can't enter %s", cgroups[cgroup]);
	TEST_ASSERT(write_file(TRACE_FILE, "\n"), TRACE_FILE ": %s", strerror(errno));
	lru_gen_do_aging(&stats, memcg_names[cgroup]);
}

static void zap_all(struct test_vm **vms)
{
	int prot = PROT_READ | PROT_WRITE, i;
	u64 len = mem_pages * page_size;

	/* Any change of protections zaps mappings. */
	TEST_ASSERT(!mprotect(mem, len, PROT_READ) && !mprotect(mem, len, prot),
		    "mprotect: %s", strerror(errno));
	for (i = 0; vms[i]; i++)
		memset(vms[i]->young, 0, sizeof(vms[i]->young));
}

/* One page in density is accessed. */
static void access_some(struct test_vm *t, u32 density)
{
	u64 page;
	int i;

	for (i = 0; t->slots[i].nr; i++) {
		for (page = 0; page < t->slots[i].nr; page++) {
			u64 idx = t->slots[i].first + page;
			bool hit = owner[idx] >= 0 && kvm_random_u32(&rng) % density == 0;

			t->guest_slots[i].accesses[page] = !hit ? ACCESS_NONE :
				kvm_random_bool(&rng) ? ACCESS_READ : ACCESS_WRITE;
			if (hit)
				t->young[idx] = true;
		}
	}
	run_guest(t->vcpu);
}

/* Of pages that are the other cgroup's, the age must still be there afterwards. */
static bool verify_round(struct test_vm **vms, u32 density)
{
	int first = kvm_random_bool(&rng), i;

	zap_all(vms);
	for (i = 0; vms[i]; i++)
		access_some(vms[i], density);

	age(first);
	if (!verify_trace(vms, first))
		return false;
	age(!first);
	if (!verify_trace(vms, !first))
		return false;
	/* Nothing is left. */
	age(first);
	return verify_trace(vms, first);
}

static void verify_rounds(struct test_vm **vms, int rounds)
{
	int i, retries = 0;
	u64 disturbed;

	for (i = 0; i < rounds; i++) {
		disturbed = nr_disturbances();
		if (verify_round(vms, 1 << (i % 4))) {
			retries = 0;
			continue;
		}
		TEST_ASSERT(nr_disturbances() != disturbed,
			    "KVM's answer is not what the guests have accessed");
		__TEST_REQUIRE(++retries < MAX_RETRIES,
			       "Pages migrate or are reclaimed all the time");
		i--;
	}
}

static void create_vm(struct test_vm *t, const struct slot *slots)
{
	int i;

	memset(t, 0, sizeof(*t));
	t->slots = slots;
	t->vm = vm_create_with_one_vcpu(&t->vcpu, guest_code);
	t->guest_slots = addr_gva2hva(t->vm, (gva_t)guest_slots);
	sync_global_to_guest(t->vm, page_size);

	for (i = 0; slots[i].nr; i++) {
		u64 size = align_up(slots[i].nr * page_size, t->vm->page_size);
		u64 gpa = SLOT_GPA(slots[i].gpa_idx);

		vm_set_user_memory_region(t->vm, FIRST_SLOT + i, 0, gpa,
					  slots[i].nr * page_size,
					  mem + slots[i].first * page_size);
		virt_map(t->vm, SLOT_GVA(i), gpa, size / t->vm->page_size);
		t->guest_slots[i].gva = SLOT_GVA(i);
		t->guest_slots[i].nr_pages = slots[i].nr;
	}
}

/* Pages of both cgroups, one in so many the other's, one in so many a hole; 0 for none. */
static void map_memory(u64 nr, int other, int hole)
{
	u64 page, len = nr * page_size;
	char *fillers;
	int cgroup;

	mem_pages = nr;
	/* Guards keep the mapping from being merged with others. */
	mem = kvm_mmap(len + 2 * page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1) + page_size;
	TEST_ASSERT(!mprotect(mem, len, PROT_READ | PROT_WRITE), "%s", strerror(errno));
	/* Fails without THP. */
	madvise(mem, len, MADV_NOHUGEPAGE);
	keep_from_numa_balancing(mem, len);
	for (page = 0; page < nr; page++)
		owner[page] = hole && page % hole == 7 ? -1 : other && page % other == 1;

	for (cgroup = 0; cgroup < 2; cgroup++) {
		TEST_ASSERT(!cg_enter_current(cgroups[cgroup]), "Can't enter %s", cgroups[cgroup]);
		for (page = 0; page < nr; page++) {
			if (owner[page] == cgroup)
				*(u64 *)(mem + page * page_size) = 1;
		}
		/* MGLRU doesn't see pages that aren't on a list yet: push them out. */
		fillers = kvm_mmap(NR_FILLERS * page_size, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1);
		madvise(fillers, NR_FILLERS * page_size, MADV_NOHUGEPAGE);
		for (page = 0; page < NR_FILLERS; page++)
			fillers[page * page_size] = 1;
	}
}

static void verify_nr_asked(void)
{
	u64 page, nr_there = 0, nr = 0;

	for (page = 0; page < mem_pages; page++) {
		nr_there += owner[page] >= 0;
		nr += asked[page];
	}
	printf("pages=%lu asked_about=%lu windows=%lu bits=%lu young=%lu\n",
	       nr_there, nr, nr_windows, nr_asked, nr_asked_young);
	/* Not all architectures can be asked that way. */
	__TEST_REQUIRE(nr_windows, "KVM isn't asked by masks");
	/* Some may have been off the lists for a while, for what reason ever. */
	TEST_ASSERT(nr > nr_there / 2, "KVM was asked about %lu of %lu pages", nr, nr_there);
	TEST_ASSERT(nr_asked > 4 * nr_windows, "KVM was asked about %lu pages in %lu calls",
		    nr_asked, nr_windows);
	TEST_ASSERT(nr_asked_young, "KVM wasn't asked about any page that is young");
	memset(asked, 0, sizeof(asked));
	nr_asked = nr_asked_young = nr_windows = 0;
}

static void test_masks(int rounds)
{
	static struct test_vm vm, other;
	struct test_vm *vms[] = { &vm, &other, NULL };

	/* Of the pages of a window, those that are 3 apart belong to the other cgroup. */
	map_memory(NR_PAGES, 3, 11);

	create_vm(&vm, small_slots);
	create_vm(&other, shared_slots);
	verify_rounds(vms, rounds);
	verify_nr_asked();

	/* One subscriber less. */
	kvm_vm_free(other.vm);
	vms[1] = NULL;
	verify_rounds(vms, rounds);
	verify_nr_asked();
	kvm_vm_free(vm.vm);
	munmap(mem, mem_pages * page_size);
}

static struct test_vm faulter;
static bool stop_faulter;

/* Each harvest write-protects the pages, if not with PML, i.e. each write faults. */
static void *vcpu_worker(void *log)
{
	while (!READ_ONCE(stop_faulter)) {
		kvm_vm_get_dirty_log(faulter.vm, FIRST_SLOT, log);
		run_guest(faulter.vcpu);
	}
	return NULL;
}

static void test_faulting_vcpu(int rounds)
{
	static const struct slot slots[] = {
		{ .first = 0,	.nr = NR_FAULT_PAGES,	.gpa_idx = 0 },
		{ },
	};
	struct test_vm *vms[] = { &faulter, NULL };
	unsigned long *log = bitmap_zalloc(NR_FAULT_PAGES);
	u64 *passes, before, disturbed;
	int i, nr_good = 0;
	pthread_t thread;
	bool good;

	TEST_ASSERT(log, "No memory");
	map_memory(NR_FAULT_PAGES, 0, 0);

	create_vm(&faulter, slots);
	passes = addr_gva2hva(faulter.vm, (gva_t)&nr_passes);
	vm_set_user_memory_region(faulter.vm, FIRST_SLOT, KVM_MEM_LOG_DIRTY_PAGES,
				  SLOT_GPA(0), mem_pages * page_size, mem);
	memset(faulter.guest_slots[0].accesses, ACCESS_WRITE, NR_FAULT_PAGES);

	for (i = 0; i < rounds; i++) {
		disturbed = nr_disturbances();
		/* What was aged and is still in the TLB wouldn't become young again. */
		zap_all(vms);
		run_guest(faulter.vcpu);
		memset(faulter.young, true, sizeof(faulter.young));

		before = READ_ONCE(*passes);
		WRITE_ONCE(stop_faulter, false);
		kvm_pthread_create(&thread, NULL, vcpu_worker, log);
		while (READ_ONCE(*passes) == before)
			;
		age(0);
		WRITE_ONCE(stop_faulter, true);
		kvm_pthread_join(thread, NULL);

		good = verify_trace(vms, 0);
		TEST_ASSERT(good || nr_disturbances() != disturbed,
			    "Pages were written, and not aged since, but aren't young");
		nr_good += good;
	}
	printf("rounds_with_faults=%d passes_of_vcpu=%lu\n", nr_good, READ_ONCE(*passes));
	__TEST_REQUIRE(nr_good, "Pages migrate or are reclaimed all the time");
	verify_nr_asked();

	kvm_vm_free(faulter.vm);
	munmap(mem, mem_pages * page_size);
	free(log);
}

static int run_test(const char *cgroup, void *arg)
{
	int rounds = *(int *)arg;
	cpu_set_t cpus;
	char own[32];

	/* Reclaim asks, too; set_event_pid would trace the host's scheduler. */
	snprintf(own, sizeof(own), "common_pid == %d", getpid());
	TEST_ASSERT(write_file(TRACE_EVENTS "kvm_age_hva_masked/filter", own),
		    "Can't trace ourselves");

	/* The pages that wait for being put on a list are those of this CPU. */
	get_allowed_cpus(&cpus);
	pin_self_to_nth_cpu(&cpus, 0);
	test_masks(rounds);
	kvm_sched_setaffinity(0, sizeof(cpus), &cpus);
	test_faulting_vcpu(rounds);
	return 0;
}

static void help(char *name)
{
	puts("");
	printf("usage: %s [-h] [-n rounds] [-r seed]\n", name);
	puts("");
	printf(" -n: number of rounds of each part (default: 20)\n");
	printf(" -r: seed of the random choices (default: 1)\n");
	puts("");
	exit(0);
}

static void destroy_cgroups(int nr)
{
	while (nr--)
		cg_destroy(cgroups[nr]);
}

int main(int argc, char *argv[])
{
	int opt, i, ret, rounds = 20;
	bool created, traced;
	char root[PATH_MAX];
	u32 seed = 1;

	while ((opt = getopt(argc, argv, "hn:r:")) != -1) {
		switch (opt) {
		case 'n':
			rounds = atoi_positive("Number of rounds", optarg);
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

	__TEST_REQUIRE(in_initial_pid_namespace(),
		       "In a PID namespace of its own, the test can't trace only itself");
	__TEST_REQUIRE(lru_gen_usable(), "MGLRU isn't usable");
	__TEST_REQUIRE(!cg_find_controller_root(root, sizeof(root), "memory"),
		       "Cannot find memory cgroup controller");
	page_size = getpagesize();
	rng = new_kvm_random_state(seed);

	for (i = 0; i < 2; i++) {
		/* Of a name that was removed, MGLRU may show the old one. */
		snprintf(memcg_names[i], sizeof(memcg_names[i]), "aging_masked_test.%d.%d",
			 getpid(), i);
		cgroups[i] = cg_name(root, memcg_names[i]);
		created = !cg_create(cgroups[i]) &&
			  !access(cg_control(cgroups[i], "memory.stat"), F_OK);
		if (!created)
			destroy_cgroups(i + 1);
		__TEST_REQUIRE(created, "Cannot create memory cgroup %s", cgroups[i]);
	}
	traced = trace_start();
	if (!traced) {
		rmdir(TRACE_INSTANCE);
		destroy_cgroups(2);
	}
	__TEST_REQUIRE(traced, "No trace event kvm_age_hva_masked, or no tracefs to enable it");

	ret = cg_run(cgroups[0], run_test, &rounds);
	destroy_cgroups(2);
	rmdir(TRACE_INSTANCE);
	return ret;
}
