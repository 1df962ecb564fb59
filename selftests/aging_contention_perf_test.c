// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure how aging guest memory and vCPUs that take page faults get into each
 * other's way.
 *
 * access_tracking_perf_test measures what vCPUs pay for accesses to pages that have
 * been aged, i.e. nothing is aged while vCPUs run.  This test ages one memslot via
 * the idle page bitmap or, with -l, MGLRU's debugfs file, while vCPUs fault on
 * another one, which the host keeps zapping, and reports
 *
 *  - how long it takes to age the memslot once ("pass"), with and without vCPUs
 *    that take faults;
 *  - the faults that vCPUs take per second, with and without aging;
 *  - how many MMU notifiers KVM is called for in a pass, if tracefs is there to count.
 *
 * Results are one "key=value" a line.  All times are those of the machine the test
 * runs on, on an emulated one only ratios mean something.
 *
 * What can't be measured: KVM's part alone.  A pass includes looking up pages and
 * rmaps of the primary MMU.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "page_idle.h"
#include "pin_util.h"
#include "processor.h"
#include "test_util.h"
#include "trace_count.h"
#include "ucall_common.h"

#include "cgroup_util.h"
#include "lru_gen_util.h"

#define AGE_SLOT	10
#define FAULT_SLOT	11
#define AGE_GVA		0x100000000ul
#define FAULT_GVA	0xc0000000ul
#define FAULT_MEM_SIZE	SZ_16M

#define MAX_FAULTERS	16

#define MEMCG_NAME	"aging_contention_perf_test"

/* Shared with the guest. */
static u64 page_size;
static u64 age_pages;
static u64 fault_pages;	/* of each vCPU that faults */
static int nr_faulters = 4;
static u64 nr_faults[MAX_FAULTERS][64 / sizeof(u64)];

struct contention {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[1 + MAX_FAULTERS];
	u64 (*nr_faults)[64 / sizeof(u64)];
	void *age_mem;
	void *fault_mem;
	u64 *pfns;
	int idle_fd;
};

struct test_params {
	u64 age_size;
	int passes;
};

static cpu_set_t allowed_cpus;
static bool lru_gen;
static struct contention contention;
static bool host_stop;
/* vCPUs fault if it's set. */
static bool faulting;

/* Populates the memory that is aged. */
static void ager_code(void)
{
	u64 page;

	for (page = 0; page < age_pages; page++)
		WRITE_ONCE(*(u64 *)(AGE_GVA + page * page_size), page);
	GUEST_DONE();
}

/* Each vCPU faults on pages of its own. */
static void faulter_code(int idx)
{
	u64 first = fault_pages * idx, page;

	for (;;) {
		for (page = first; page < first + fault_pages; page++) {
			WRITE_ONCE(*(u64 *)(FAULT_GVA + page * page_size), page);
			WRITE_ONCE(nr_faults[idx][0], nr_faults[idx][0] + 1);
		}
		GUEST_SYNC(0);
	}
}

static void guest_code(int idx)
{
	if (idx < 0)
		ager_code();
	else
		faulter_code(idx);
}

/*
 * Changing protections leaves pages in place, so that faults are KVM's alone, but
 * takes mmap_lock for write, and if MGLRU can't have mmap_lock it skips the mm.
 */
static void zap(void *mem, u64 len)
{
	int prot = PROT_READ | PROT_WRITE;

	if (lru_gen)
		TEST_ASSERT(!madvise(mem, len, MADV_DONTNEED), "madvise: %s", strerror(errno));
	else
		TEST_ASSERT(!mprotect(mem, len, prot | PROT_EXEC) && !mprotect(mem, len, prot),
			    "mprotect: %s", strerror(errno));
}

/* Zaps what the vCPU has just faulted on, and lets it do so again. */
static void *vcpu_worker(void *data)
{
	unsigned long idx = (unsigned long)data;
	struct contention *c = &contention;
	struct kvm_vcpu *vcpu = c->vcpus[1 + idx];
	u64 len = fault_pages * page_size;
	struct ucall uc;

	pin_self_to_nth_cpu(&allowed_cpus, idx);
	while (!READ_ONCE(host_stop)) {
		if (!READ_ONCE(faulting)) {
			usleep(100);
			continue;
		}
		zap(c->fault_mem + idx * len, len);
		vcpu_run(vcpu);
		TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
	}
	return NULL;
}

/* Pages that are neighbours, as most are, are aged by one system call. */
static void age_by_idle_bitmap(struct contention *c)
{
	u64 page, word = c->pfns[0] / PAGE_IDLE_BITS, bits = 0;

	for (page = 0; page < age_pages; page++) {
		if (c->pfns[page] / PAGE_IDLE_BITS != word) {
			write_page_idle(c->idle_fd, word, bits);
			word = c->pfns[page] / PAGE_IDLE_BITS;
			bits = 0;
		}
		bits |= 1ull << (c->pfns[page] % PAGE_IDLE_BITS);
	}
	write_page_idle(c->idle_fd, word, bits);
}

static u64 total_faults(struct contention *c)
{
	u64 total = 0;
	int i;

	for (i = 0; i < nr_faulters; i++)
		total += READ_ONCE(c->nr_faults[i][0]);
	return total;
}

static void age_once(struct contention *c)
{
	struct memcg_stats stats;

	if (lru_gen)
		lru_gen_do_aging(&stats, MEMCG_NAME);
	else
		age_by_idle_bitmap(c);
}

/* In a pass that isn't measured, as tracing takes its time. */
static void count_notifiers(struct contention *c)
{
	if (!trace_count_start())
		return;
	trace_count_event("kvm_age_hva");
	/* Only kernels that call it have it. */
	trace_count_event("kvm_age_hva_masked");
	age_once(c);
	printf("notifier_calls_per_pass=%lu\n", trace_count_stop());
}

/* Reports the shortest of the passes and, if vCPUs fault, their rate over all of them. */
static void measure_passes(struct contention *c, const struct test_params *p, const char *name)
{
	s64 total = 0, shortest = 0, ns;
	u64 faults = total_faults(c);
	struct timespec start;
	int i;

	for (i = 0; i < p->passes; i++) {
		clock_gettime(CLOCK_MONOTONIC, &start);
		age_once(c);
		ns = timespec_to_ns(timespec_elapsed(start));
		total += ns;
		if (!i || ns < shortest)
			shortest = ns;
	}
	faults = total_faults(c) - faults;

	printf("%s_pass_min_us=%.1f\n", name, shortest / 1e3);
	printf("%s_pass_avg_us=%.1f\n", name, total / 1e3 / p->passes);
	printf("%s_faults_per_second=%.0f\n", name, faults * 1e9 / total);
}

static void create_vm(struct contention *c, const struct test_params *p)
{
	struct ucall uc;
	u64 gpa, fault_size;
	int i;

	c->vm = __vm_create(VM_SHAPE_DEFAULT, 1 + nr_faulters,
			    2 * (p->age_size + FAULT_MEM_SIZE) / getpagesize());
	for (i = 0; i < 1 + nr_faulters; i++) {
		c->vcpus[i] = vm_vcpu_add(c->vm, i, guest_code);
		vcpu_args_set(c->vcpus[i], 1, i - 1);
	}
	kvm_arch_vm_finalize_vcpus(c->vm);

	page_size = c->vm->page_size;
	age_pages = p->age_size / page_size;
	/* Each vCPU's part begins with a page of the host's. */
	fault_size = align_down(FAULT_MEM_SIZE / nr_faulters,
				max_t(u64, page_size, getpagesize()));
	fault_pages = fault_size / page_size;

	gpa = align_down((c->vm->max_gfn - age_pages) * page_size, SZ_2M);
	vm_userspace_mem_region_add(c->vm, VM_MEM_SRC_ANONYMOUS, gpa, AGE_SLOT, age_pages, 0);
	virt_map(c->vm, AGE_GVA, gpa, age_pages);
	c->age_mem = addr_gpa2hva(c->vm, gpa);

	gpa = align_down(gpa - FAULT_MEM_SIZE, SZ_2M);
	vm_userspace_mem_region_add(c->vm, lru_gen ? VM_MEM_SRC_SHMEM : VM_MEM_SRC_ANONYMOUS,
				    gpa, FAULT_SLOT, nr_faulters * fault_pages, 0);
	virt_map(c->vm, FAULT_GVA, gpa, nr_faulters * fault_pages);
	c->fault_mem = addr_gpa2hva(c->vm, gpa);
	memset(c->fault_mem, 1, nr_faulters * fault_size);

	sync_global_to_guest(c->vm, page_size);
	sync_global_to_guest(c->vm, age_pages);
	sync_global_to_guest(c->vm, fault_pages);
	sync_global_to_guest(c->vm, nr_faulters);
	c->nr_faults = addr_gva2hva(c->vm, (gva_t)nr_faults);

	vcpu_run(c->vcpus[0]);
	TEST_ASSERT_EQ(get_ucall(c->vcpus[0], &uc), UCALL_DONE);

	c->pfns = calloc(age_pages, sizeof(*c->pfns));
	TEST_ASSERT(c->pfns, "No memory");
	look_up_pfns(c->age_mem, page_size, age_pages, c->pfns);
}

static int run_test(const char *cgroup, void *arg)
{
	const struct test_params *p = arg;
	struct contention *c = &contention;
	pthread_t threads[MAX_FAULTERS];
	struct timespec start;
	unsigned long i;
	u64 faults;

	create_vm(c, p);
	pin_self_to_nth_cpu(&allowed_cpus, nr_faulters);
	for (i = 0; i < (unsigned long)nr_faulters; i++)
		kvm_pthread_create(&threads[i], NULL, vcpu_worker, (void *)i);

	printf("age_mib=%lu\n", p->age_size / SZ_1M);
	measure_passes(c, p, "quiet");
	count_notifiers(c);

	WRITE_ONCE(faulting, true);
	while (total_faults(c) < nr_faulters * fault_pages)
		usleep(1000);
	clock_gettime(CLOCK_MONOTONIC, &start);
	faults = total_faults(c);
	sleep(1);
	printf("unaged_faults_per_second=%.0f\n", (total_faults(c) - faults) * 1e9 /
	       timespec_to_ns(timespec_elapsed(start)));
	measure_passes(c, p, "faulting");

	WRITE_ONCE(host_stop, true);
	for (i = 0; i < (unsigned long)nr_faulters; i++)
		kvm_pthread_join(threads[i], NULL);
	kvm_vm_free(c->vm);
	return 0;
}

static void help(char *name)
{
	puts("");
	printf("usage: %s [-h] [-b bytes] [-l] [-n passes] [-v faulters]\n", name);
	puts("");
	printf(" -b: size of the memory that is aged (default: 64M)\n");
	printf(" -l: age via MGLRU (default: via the idle page bitmap)\n");
	printf(" -n: number of passes to take the shortest and the average of (default: 8)\n");
	printf(" -v: number of vCPUs that take faults (default: 4)\n");
	puts("");
	exit(0);
}

int main(int argc, char *argv[])
{
	struct test_params p = {
		.age_size = SZ_64M,
		.passes = 8,
	};
	char root[PATH_MAX], *cgroup;
	int opt, ret;

	while ((opt = getopt(argc, argv, "b:hln:v:")) != -1) {
		switch (opt) {
		case 'b':
			p.age_size = parse_size(optarg);
			break;
		case 'l':
			lru_gen = true;
			break;
		case 'n':
			p.passes = atoi_positive("Number of passes", optarg);
			break;
		case 'v':
			nr_faulters = atoi_positive("Number of faulting vCPUs", optarg);
			TEST_ASSERT(nr_faulters <= MAX_FAULTERS, "At most %d faulting vCPUs",
				    MAX_FAULTERS);
			break;
		case 'h':
		default:
			help(argv[0]);
			break;
		}
	}
	TEST_ASSERT(p.age_size && !(p.age_size % SZ_2M), "Memory must be a multiple of 2M");
	__TEST_REQUIRE(get_allowed_cpus(&allowed_cpus) > nr_faulters,
		       "%d faulting vCPUs need %d CPUs", nr_faulters, nr_faulters + 1);

	if (!lru_gen) {
		contention.idle_fd = open_page_idle();
		return run_test(NULL, &p);
	}

	/* MGLRU ages what belongs to a memory cgroup, have one of our own. */
	__TEST_REQUIRE(lru_gen_usable(), "MGLRU isn't usable");
	__TEST_REQUIRE(!cg_find_controller_root(root, sizeof(root), "memory"),
		       "Cannot find memory cgroup controller");
	cgroup = cg_name(root, MEMCG_NAME);
	TEST_ASSERT(!cg_create(cgroup), "Cannot create %s: %s", cgroup, strerror(errno));
	ret = cg_run(cgroup, run_test, &p);
	cg_destroy(cgroup);
	return ret;
}
