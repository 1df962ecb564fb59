// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure reclaim of memory of which a part is used all the time, by a guest or, with -p,
 * by threads of a plain process.
 *
 * A vCPU writes to random pages of the hot ones, which are scattered among the others.  The
 * host reclaims some memory, by the memory cgroup that the test has for itself; then another
 * vCPU writes to as many of the cold pages as were to be reclaimed, in turn, i.e. has them
 * swapped in.  That is a pass.  Reported are, of all passes,
 *
 *  - the time that reclaiming a MiB takes, and system time by page;
 *  - the hot pages that are written to in a second, throughout;
 *  - the share of hot pages among those that were swapped in: what reclaim took and
 *    should have left;
 *  - how many MMU notifiers that age KVM is called for, on the whole machine, by pages that
 *    are reclaimed, if tracefs is there.
 *
 * Results are one "key=value" a line.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <linux/sizes.h>
/* Ahead of sys/sysinfo.h, which expects it of linux/kernel.h, but not of that of tools. */
#include <linux/sysinfo.h>
#include <sys/sysinfo.h>

#include "kvm_util.h"
#include "pin_util.h"
#include "processor.h"
#include "test_util.h"
#include "trace_count.h"
#include "ucall_common.h"

#include "cgroup_util.h"

#define MEM_SLOT	10
#define MEM_GVA		0x100000000ul

/* One page of so many is hot. */
#define HOT_SHARE	8

enum vcpu_idx {
	HOT_VCPU,
	COLD_VCPU,
	NR_VCPUS,
};

/* Shared with the guest, or the threads that are in its place. */
struct access {
	u64 page_size;		/* the larger one of host and guest */
	u64 nr_pages;
	u64 cold_batch;		/* pages to write to, until the next exit */
	u64 next_cold;
	u64 nr_hot_writes;
	bool stop;
};

struct reclaim {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_VCPUS];
	struct access *access;
	void *mem;
};

struct test_params {
	u64 mem_size;
	u64 batch_size;
	int passes;
	bool plain;
};

static struct access guest_access;
static struct reclaim reclaim;
static cpu_set_t allowed_cpus;

static void write_page(struct access *a, void *mem, u64 page)
{
	u64 *word = mem + page * a->page_size;

	WRITE_ONCE(*word, READ_ONCE(*word) + 1);
}

static void write_hot_pages(struct access *a, void *mem)
{
	struct kvm_random_state rng = new_kvm_random_state(1);
	u64 nr_hot = a->nr_pages / HOT_SHARE;

	while (!READ_ONCE(a->stop)) {
		write_page(a, mem, kvm_random_u32(&rng) % nr_hot * HOT_SHARE);
		WRITE_ONCE(a->nr_hot_writes, a->nr_hot_writes + 1);
	}
}

static void write_cold_pages(struct access *a, void *mem)
{
	u64 i;

	for (i = 0; i < a->cold_batch; i++) {
		if (!(a->next_cold % HOT_SHARE))
			a->next_cold++;
		write_page(a, mem, a->next_cold);
		/* The last page is cold: there is a multiple of HOT_SHARE of them. */
		a->next_cold = (a->next_cold + 1) % a->nr_pages;
	}
}

static void guest_code(enum vcpu_idx idx)
{
	struct access *a = &guest_access;

	if (idx == HOT_VCPU)
		write_hot_pages(a, (void *)MEM_GVA);
	else
		for (;;) {
			write_cold_pages(a, (void *)MEM_GVA);
			GUEST_SYNC(0);
		}
	GUEST_DONE();
}

static void run_vcpu(enum vcpu_idx idx, u64 end)
{
	struct kvm_vcpu *vcpu = reclaim.vcpus[idx];
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), end);
}

static void *hot_worker(void *data)
{
	pin_self_to_nth_cpu(&allowed_cpus, 0);
	if (reclaim.vm)
		run_vcpu(HOT_VCPU, UCALL_DONE);
	else
		write_hot_pages(reclaim.access, reclaim.mem);
	return NULL;
}

static void write_cold(u64 nr_pages)
{
	reclaim.access->cold_batch = nr_pages;
	if (reclaim.vm)
		run_vcpu(COLD_VCPU, UCALL_SYNC);
	else
		write_cold_pages(reclaim.access, reclaim.mem);
}

static void create_vm(const struct test_params *p)
{
	u64 nr_pages, gpa;
	int i;

	nr_pages = p->mem_size / getpagesize();
	reclaim.vm = __vm_create(VM_SHAPE_DEFAULT, NR_VCPUS, 2 * nr_pages);
	for (i = 0; i < NR_VCPUS; i++) {
		reclaim.vcpus[i] = vm_vcpu_add(reclaim.vm, i, guest_code);
		vcpu_args_set(reclaim.vcpus[i], 1, i);
	}
	kvm_arch_vm_finalize_vcpus(reclaim.vm);

	nr_pages = p->mem_size / reclaim.vm->page_size;
	gpa = align_down((reclaim.vm->max_gfn - nr_pages) * reclaim.vm->page_size, SZ_2M);
	vm_userspace_mem_region_add(reclaim.vm, VM_MEM_SRC_ANONYMOUS, gpa, MEM_SLOT, nr_pages, 0);
	virt_map(reclaim.vm, MEM_GVA, gpa, nr_pages);
	reclaim.mem = addr_gpa2hva(reclaim.vm, gpa);
	reclaim.access = addr_gva2hva(reclaim.vm, (gva_t)&guest_access);
}

static void create_process(const struct test_params *p)
{
	reclaim.mem = kvm_mmap(p->mem_size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1);
	TEST_ASSERT(!thp_configured() || !madvise(reclaim.mem, p->mem_size, MADV_NOHUGEPAGE),
		    "madvise: %s", strerror(errno));
	reclaim.access = &guest_access;
}

static s64 system_ns(void)
{
	struct rusage usage;

	TEST_ASSERT(!getrusage(RUSAGE_THREAD, &usage), "getrusage: %s", strerror(errno));
	return usage.ru_stime.tv_sec * 1000000000ll + usage.ru_stime.tv_usec * 1000ll;
}

/* Hot pages that aren't in memory. */
static u64 nr_hot_missing(void)
{
	u64 size = reclaim.access->nr_pages * reclaim.access->page_size;
	u64 step = HOT_SHARE * reclaim.access->page_size / getpagesize();
	unsigned char *in_core = malloc(size / getpagesize());
	u64 page, missing = 0;

	TEST_ASSERT(in_core, "No memory");
	TEST_ASSERT(!mincore(reclaim.mem, size, in_core), "mincore: %s", strerror(errno));
	for (page = 0; page < size / getpagesize(); page += step)
		missing += !(in_core[page] & 1);
	free(in_core);
	return missing;
}

static int run_test(const char *cgroup, void *arg)
{
	const struct test_params *p = arg;
	s64 ns = 0, sys_ns = 0, before_ns;
	u64 batch, hot_missing = 0, hot_writes, calls = 0;
	long stolen = 0, before, error = 0;
	struct timespec start, begin;
	char bytes[32];
	pthread_t hot;
	bool traced;
	int i, ret;

	/* A limit of time ends the process that waits for this one. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);

	if (p->plain)
		create_process(p);
	else
		create_vm(p);
	reclaim.access->page_size = getpagesize();
	if (reclaim.vm)
		reclaim.access->page_size = max_t(u64, getpagesize(), reclaim.vm->page_size);
	reclaim.access->nr_pages = p->mem_size / reclaim.access->page_size;
	snprintf(bytes, sizeof(bytes), "%lu", (unsigned long)p->batch_size);
	batch = p->batch_size / reclaim.access->page_size;

	/* Each page has to be there, the hot ones as well. */
	memset(reclaim.mem, 1, p->mem_size);
	kvm_pthread_create(&hot, NULL, hot_worker, NULL);
	pin_self_to_nth_cpu(&allowed_cpus, 1);
	write_cold(reclaim.access->nr_pages);

	traced = trace_count_start();
	if (traced) {
		trace_count_event("kvm_age_hva");
		/* Only kernels that call it have it. */
		trace_count_event("kvm_age_hva_masked");
		trace_count_event("kvm_test_age_hva");
	}
	clock_gettime(CLOCK_MONOTONIC, &begin);
	hot_writes = READ_ONCE(reclaim.access->nr_hot_writes);
	for (i = 0; i < p->passes && !error; i++) {
		before = cg_read_key_long(cgroup, "memory.stat", "pgsteal ");
		before_ns = system_ns();
		clock_gettime(CLOCK_MONOTONIC, &start);
		/* Falls short if all that is left is in use. */
		ret = cg_write(cgroup, "memory.reclaim", bytes);
		if (ret && ret != -EAGAIN)
			error = -ret;
		ns += timespec_to_ns(timespec_elapsed(start));
		sys_ns += system_ns() - before_ns;
		hot_missing += nr_hot_missing();
		stolen += cg_read_key_long(cgroup, "memory.stat", "pgsteal ") - before;
		write_cold(batch);
	}
	hot_writes = READ_ONCE(reclaim.access->nr_hot_writes) - hot_writes;
	before_ns = timespec_to_ns(timespec_elapsed(begin));

	WRITE_ONCE(reclaim.access->stop, true);
	kvm_pthread_join(hot, NULL);
	if (traced)
		calls = trace_count_stop();
	TEST_ASSERT(!error, "memory.reclaim: %s", strerror(error));
	__TEST_REQUIRE(stolen > 0, "Nothing was reclaimed");

	printf("reclaimed_pages_per_pass=%ld\n", stolen / p->passes);
	printf("reclaim_page_ns=%.0f\n", (double)ns / stolen);
	printf("reclaim_page_system_ns=%.0f\n", (double)sys_ns / stolen);
	printf("hot_writes_per_ms=%.1f\n", hot_writes * 1e6 / before_ns);
	printf("hot_missing_percent=%.2f\n", hot_missing * 100.0 / stolen);
	if (traced)
		printf("aging_calls_per_1000_pages=%.0f\n", calls * 1e3 / stolen);
	if (reclaim.vm)
		kvm_vm_free(reclaim.vm);
	return 0;
}

static void help(char *name)
{
	puts("");
	printf("usage: %s [-h] [-b bytes] [-n passes] [-p] [-r bytes]\n", name);
	puts("");
	printf(" -b: size of the memory (default: 64M)\n");
	printf(" -n: number of passes (default: 16)\n");
	printf(" -p: have a plain process use it (default: a guest)\n");
	printf(" -r: how much to reclaim in each pass (default: 4M)\n");
	puts("");
	exit(0);
}

int main(int argc, char *argv[])
{
	struct test_params p = {
		.mem_size = SZ_64M,
		.batch_size = SZ_4M,
		.passes = 16,
	};
	char root[PATH_MAX], name[32], *cgroup, *control;
	struct sysinfo info;
	int opt, ret;
	bool can;

	while ((opt = getopt(argc, argv, "b:hn:pr:")) != -1) {
		switch (opt) {
		case 'b':
			p.mem_size = parse_size(optarg);
			break;
		case 'n':
			p.passes = atoi_positive("Number of passes", optarg);
			break;
		case 'p':
			p.plain = true;
			break;
		case 'r':
			p.batch_size = parse_size(optarg);
			break;
		case 'h':
		default:
			help(argv[0]);
			break;
		}
	}

	p.mem_size = align_down(p.mem_size, HOT_SHARE * SZ_64K);
	TEST_ASSERT(p.mem_size, "Memory must be %u KiB at least", HOT_SHARE * SZ_64K / SZ_1K);

	get_allowed_cpus(&allowed_cpus);
	__TEST_REQUIRE(!sysinfo(&info) && info.totalswap, "There is no swap");
	__TEST_REQUIRE(!cg_find_controller_root(root, sizeof(root), "memory"),
		       "Cannot find memory cgroup controller");
	snprintf(name, sizeof(name), "reclaim_perf_test.%d", getpid());
	cgroup = cg_name(root, name);
	__TEST_REQUIRE(!cg_create(cgroup), "Cannot create %s: %s", cgroup, strerror(errno));
	control = cg_control(cgroup, "memory.reclaim");
	can = !access(control, W_OK);
	free(control);
	ret = can ? cg_run(cgroup, run_test, &p) : 0;
	cg_destroy(cgroup);
	free(cgroup);
	__TEST_REQUIRE(can, "The memory cgroup has no memory.reclaim");
	return ret;
}
