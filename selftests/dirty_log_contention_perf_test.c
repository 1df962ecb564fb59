// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure how harvesting the dirty log and the rest of the VM get into each
 * other's way.
 *
 * dirty_log_perf_test measures how long KVM_GET_DIRTY_LOG and friends take while
 * vCPUs stand still.  This test measures what they do to everyone else, for
 * memslots of growing size:
 *
 *  - a writer vCPU, with the help of the faulting ones, writes all of the memslot
 *    before each harvest, so that there is something to harvest; with -w it does so
 *    alone, and goes on during the harvest, which takes one more CPU that is really
 *    there.  How long it takes to write all of the memslot after a harvest, i.e. to
 *    take a fault on each page, is "redirty";
 *  - faulting vCPUs take page faults on another memslot, without dirty logging.
 *    The guest measures each access: the time of the slowest one during a
 *    harvest is how long a harvest stops a vCPU that has nothing to do with it;
 *  - with -i, an invalidator changes protections of yet other memory, i.e. needs
 *    KVM's mmu_notifiers;
 *  - with -p, a second harvester reads the log of yet another memslot.
 *
 * A benchmark: it judges nothing.  If a vCPU has no page left to fault on before the harvest
 * has ended, which a larger memslot of such pages (-F) avoids, what it saw isn't reported.
 *
 * Results are one "key=value" a line, the memslot's size as a label.  All times
 * are those of the machine the test runs on, on an emulated one only ratios mean
 * something.
 *
 * What can't be measured: the vCPU's stall proper.  The guest sees the sum of the
 * exit, the fault and what it waits for, hence the value of a fault without a
 * harvest is reported as well ("idle").
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/log2.h>
#include <linux/sizes.h>

#include "guest_clock.h"
#include "guest_modes.h"
#include "kvm_util.h"
#include "pin_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define LOG_SLOT		10
#define FAULT_SLOT		11
#define PROBE_SLOT		12

/* As much as it takes to fault on for as long as a harvest takes, and then some. */
#define MIN_FAULT_MEM_SIZE	SZ_64M
#define MIN_FAULTER_MEM_SIZE	SZ_16M
#define PROBE_MEM_SIZE		SZ_4M
#define LOG_GVA			0x100000000ul
#define FAULT_GVA		0xc0000000ul

#define WRITER			0

/* Let the faulting vCPUs get going, but not get far. */
#define FAULTS_BEFORE_HARVEST	16
/* Faults without a harvest, to compare with. */
#define IDLE_FAULTS		512

/*
 * Logarithmic histogram, 16 buckets per power of two: values are off by at most
 * 1/16, for any number of samples.
 */
#define SUB_BITS		4
#define NR_BUCKETS		(64 << SUB_BITS)

struct histogram {
	u64 buckets[NR_BUCKETS];
	u64 nr;
	u64 max;
};

/* What a harvest does to a faulting vCPU; written by the guest. */
struct faulter {
	/* Accesses that ran, at least partially, during a harvest... */
	struct histogram harvest;
	/* ...and those that did not. */
	struct histogram idle;
	/* Faults in this round; the host waits for it to move. */
	u64 nr_faults;
	/* Written by the host: the round to start, and the last one to end early. */
	u64 round;
	u64 enough;
	/* The last round that has ended. */
	u64 finished;
	/* Written by the host: the pass over the memslot to make, and the last one made. */
	u64 pass;
	u64 passes;
} __aligned(4096);

/* Shared with the guest. */
static u64 page_size;
static u64 log_pages;
static u64 fault_pages;
static int nr_faulters = 1;
static int nr_writers;
static struct faulter *faulters;
static u64 writer_passes;
/* Odd while a harvest runs; an access can begin before one and end after it. */
static u64 harvest_seq;
static bool guest_stop;

struct test_params {
	enum vm_mem_backing_src_type backing_src;
	u64 min_size;
	u64 max_size;
	int iterations;
	u64 fault_size;
	bool manual;
	bool invalidate;
	bool probe;
	bool keep_writing;
};

struct contention {
	struct kvm_vm *vm;
	const struct test_params *p;
	struct kvm_vcpu **vcpus;
	pthread_t *threads;
	u64 fault_size;
	struct faulter *faulters;
	u64 *harvest_seq;
	u64 *writer_passes;
	void *fault_mem;
	void *invalidate_mem;
	unsigned long *bitmap;
	double ns_per_tick;

	/* Nanoseconds; written by the threads of the host. */
	struct histogram invalidations;
	struct histogram probes;
};

static cpu_set_t allowed_cpus;
static struct contention contention;
static u64 passes_wanted;
static bool host_stop;

static int bucket_of(u64 value)
{
	int shift;

	if (value < (1 << SUB_BITS))
		return value;

	shift = 63 - __builtin_clzll(value) - SUB_BITS;
	return (shift + 1) * (1 << SUB_BITS) + (value >> shift) - (1 << SUB_BITS);
}

/* The largest value that falls into the bucket. */
static u64 bucket_value(int bucket)
{
	int shift = (bucket >> SUB_BITS) - 1;

	if (shift < 0)
		return bucket;

	return ((((u64)bucket & ((1 << SUB_BITS) - 1)) + (1 << SUB_BITS) + 1) << shift) - 1;
}

static void histogram_add(struct histogram *h, u64 value)
{
	h->buckets[bucket_of(value)]++;
	h->nr++;
	if (value > h->max)
		h->max = value;
}

static void histogram_merge(struct histogram *to, const struct histogram *from)
{
	int i;

	for (i = 0; i < NR_BUCKETS; i++)
		to->buckets[i] += from->buckets[i];
	to->nr += from->nr;
	to->max = max(to->max, from->max);
}

/* The value that permille/1000 of the samples don't exceed. */
static u64 histogram_permille(const struct histogram *h, int permille)
{
	u64 rank = DIV_ROUND_UP(h->nr * permille, 1000), seen = 0;
	int i;

	for (i = 0; i < NR_BUCKETS; i++) {
		seen += h->buckets[i];
		if (seen >= rank && seen)
			return min(bucket_value(i), h->max);
	}
	return h->max;
}

static bool during_harvest(u64 before, u64 after)
{
	return before != after || before % 2;
}

/* Write a vCPU's share of the memslot. */
static void write_memory(int idx, u64 pass)
{
	u64 page = log_pages / nr_writers * idx;
	u64 end = idx == nr_writers - 1 ? log_pages : page + log_pages / nr_writers;

	for (; page < end && !READ_ONCE(guest_stop); page++)
		WRITE_ONCE(*(u64 *)(LOG_GVA + page * page_size), pass);
}

static void writer_code(void)
{
	u64 pass;

	for (pass = 1; !READ_ONCE(guest_stop); pass++) {
		write_memory(WRITER, pass);
		WRITE_ONCE(writer_passes, pass);
		GUEST_SYNC(pass);
	}
	GUEST_DONE();
}

/* Touch memory whose mappings the host has zapped, once a round. */
static void faulter_code(int idx)
{
	u64 first = fault_pages / nr_faulters * idx;
	struct faulter *f = &faulters[idx];
	u64 start, ticks, round, page, pass, seq;

	for (round = 1; ; round++) {
		while (READ_ONCE(f->round) != round) {
			if (READ_ONCE(guest_stop))
				GUEST_DONE();
			pass = READ_ONCE(f->pass);
			if (pass != f->passes) {
				write_memory(1 + idx, pass);
				WRITE_ONCE(f->passes, pass);
			}
			cpu_relax();
		}

		for (page = first; page < first + fault_pages / nr_faulters; page++) {
			seq = READ_ONCE(harvest_seq);
			start = guest_clock();
			WRITE_ONCE(*(u64 *)(FAULT_GVA + page * page_size), round);
			ticks = guest_clock() - start;

			if (during_harvest(seq, READ_ONCE(harvest_seq)))
				histogram_add(&f->harvest, ticks);
			else if (f->idle.nr < IDLE_FAULTS)
				histogram_add(&f->idle, ticks);
			WRITE_ONCE(f->nr_faults, f->nr_faults + 1);

			if (READ_ONCE(f->enough) == round)
				break;
		}
		WRITE_ONCE(f->finished, round);
	}
}

static void guest_code(int idx)
{
	if (idx == WRITER)
		writer_code();
	else
		faulter_code(idx - 1);
}

static void *vcpu_worker(void *data)
{
	struct kvm_vcpu *vcpu = data;
	struct ucall uc;

	pin_self_to_nth_cpu(&allowed_cpus, vcpu->id);

	for (;;) {
		vcpu_run(vcpu);

		switch (get_ucall(vcpu, &uc)) {
		case UCALL_SYNC:
			/* The writer, after a pass: wait to be asked for the next one. */
			while (READ_ONCE(passes_wanted) <= uc.args[1] && !READ_ONCE(host_stop))
				usleep(100);
			break;
		case UCALL_DONE:
			return NULL;
		case UCALL_ABORT:
			REPORT_GUEST_ASSERT(uc);
			break;
		default:
			TEST_FAIL("Unexpected exit: %s", exit_reason_str(vcpu->run->exit_reason));
		}
	}
}

static void *invalidator(void *data)
{
	struct contention *c = data;
	int prot = PROT_READ | PROT_WRITE;
	struct timespec start;
	u64 seq;

	pin_self_to_nth_cpu(&allowed_cpus, 2 + nr_faulters);

	while (!READ_ONCE(host_stop)) {
		seq = READ_ONCE(*c->harvest_seq);
		clock_gettime(CLOCK_MONOTONIC, &start);
		TEST_ASSERT(!mprotect(c->invalidate_mem, SZ_64K, prot | PROT_EXEC) &&
			    !mprotect(c->invalidate_mem, SZ_64K, prot),
			    "mprotect: %s", strerror(errno));
		if (during_harvest(seq, READ_ONCE(*c->harvest_seq)))
			histogram_add(&c->invalidations, timespec_to_ns(timespec_elapsed(start)));
		usleep(100);
	}
	return NULL;
}

static void *prober(void *data)
{
	unsigned long *bitmap = bitmap_zalloc(PROBE_MEM_SIZE / getpagesize());
	struct contention *c = data;
	struct timespec start;
	u64 seq;

	pin_self_to_nth_cpu(&allowed_cpus, 2 + nr_faulters);

	while (!READ_ONCE(host_stop)) {
		seq = READ_ONCE(*c->harvest_seq);
		clock_gettime(CLOCK_MONOTONIC, &start);
		kvm_vm_get_dirty_log(c->vm, PROBE_SLOT, bitmap);
		if (during_harvest(seq, READ_ONCE(*c->harvest_seq)))
			histogram_add(&c->probes, timespec_to_ns(timespec_elapsed(start)));
	}
	free(bitmap);
	return NULL;
}

/* One harvest of the memslot; the flush that is part of it included. */
static s64 harvest(struct contention *c)
{
	struct timespec start, elapsed;

	if (c->p->manual)
		kvm_vm_get_dirty_log(c->vm, LOG_SLOT, c->bitmap);

	WRITE_ONCE(*c->harvest_seq, *c->harvest_seq + 1);
	clock_gettime(CLOCK_MONOTONIC, &start);
	if (c->p->manual)
		kvm_vm_clear_dirty_log(c->vm, LOG_SLOT, c->bitmap, 0, log_pages);
	else
		kvm_vm_get_dirty_log(c->vm, LOG_SLOT, c->bitmap);
	elapsed = timespec_elapsed(start);
	WRITE_ONCE(*c->harvest_seq, *c->harvest_seq + 1);

	return timespec_to_ns(elapsed);
}

static void report(u64 size, const char *what, const struct histogram *h, double ns)
{
	static const struct {
		const char *name;
		int permille;
	} points[] = { { "p50", 500 }, { "p99", 990 }, { "p999", 999 }, { "max", 1000 } };
	int i;

	printf("slot_mib=%lu %s_samples=%lu\n", size / SZ_1M, what, h->nr);
	for (i = 0; i < (int)ARRAY_SIZE(points) && h->nr; i++)
		printf("slot_mib=%lu %s_%s_us=%.1f\n", size / SZ_1M, what, points[i].name,
		       histogram_permille(h, points[i].permille) * ns / 1000);
}

/* Have every page written at least once, from now on. */
static void dirty_memory(struct contention *c)
{
	u64 end;
	int i;

	if (c->p->keep_writing) {
		/* The pass that is under way may be past pages already. */
		end = READ_ONCE(*c->writer_passes) + 2;
	} else {
		end = passes_wanted + 1;
		WRITE_ONCE(passes_wanted, end);
	}
	for (i = 1; i < nr_writers; i++)
		WRITE_ONCE(c->faulters[i - 1].pass, end);

	while (READ_ONCE(*c->writer_passes) < end)
		usleep(1000);
	for (i = 1; i < nr_writers; i++) {
		while (READ_ONCE(c->faulters[i - 1].passes) != end)
			usleep(1000);
	}
}

static void run_iteration(struct contention *c, u64 size, u64 round)
{
	struct histogram stalls = {}, idle = {};
	u64 flushes, dirty = 0, start_faults, page;
	struct timespec start, redirty;
	int nr_finished = 0, i;
	s64 ns;

	/* Zap the faulting vCPUs' mappings. */
	TEST_ASSERT(!mprotect(c->fault_mem, c->fault_size, PROT_READ) &&
		    !mprotect(c->fault_mem, c->fault_size, PROT_READ | PROT_WRITE),
		    "mprotect: %s", strerror(errno));
	memset(&c->invalidations, 0, sizeof(c->invalidations));
	memset(&c->probes, 0, sizeof(c->probes));
	clock_gettime(CLOCK_MONOTONIC, &start);
	dirty_memory(c);
	redirty = timespec_elapsed(start);

	for (i = 0; i < nr_faulters; i++) {
		memset(&c->faulters[i].harvest, 0, sizeof(c->faulters[i].harvest));
		memset(&c->faulters[i].idle, 0, sizeof(c->faulters[i].idle));
		start_faults = READ_ONCE(c->faulters[i].nr_faults);
		WRITE_ONCE(c->faulters[i].round, round);
		while (READ_ONCE(c->faulters[i].nr_faults) < start_faults + FAULTS_BEFORE_HARVEST)
			usleep(10);
	}

	flushes = vm_get_stat(c->vm, remote_tlb_flush_requests);
	ns = harvest(c);
	flushes = vm_get_stat(c->vm, remote_tlb_flush_requests) - flushes;

	/* A vCPU without pages to fault on can't be stopped by the harvest. */
	for (i = 0; i < nr_faulters; i++)
		nr_finished += READ_ONCE(c->faulters[i].finished) == round;
	/* Let accesses that are under way end, and see some without a harvest. */
	usleep(20000);
	for (i = 0; i < nr_faulters; i++) {
		WRITE_ONCE(c->faulters[i].enough, round);
		while (READ_ONCE(c->faulters[i].finished) != round)
			usleep(100);
		histogram_merge(&stalls, &c->faulters[i].harvest);
		histogram_merge(&idle, &c->faulters[i].idle);
	}
	for (page = 0; page < log_pages; page++)
		dirty += test_bit(page, c->bitmap);

	if (!c->p->keep_writing)
		printf("slot_mib=%lu redirty_us=%.1f\n", size / SZ_1M,
		       timespec_to_ns(redirty) / 1000.0);
	printf("slot_mib=%lu harvest_us=%.1f\n", size / SZ_1M, ns / 1000.0);
	printf("slot_mib=%lu harvest_pages=%lu\n", size / SZ_1M, dirty);
	printf("slot_mib=%lu harvest_flush_requests=%lu\n", size / SZ_1M, flushes);
	if (nr_finished) {
		pr_info("%d of %d vCPUs took all their faults before the harvest ended, try -F\n",
			nr_finished, nr_faulters);
	} else if (nr_faulters) {
		report(size, "stall", &stalls, c->ns_per_tick);
		report(size, "idle", &idle, c->ns_per_tick);
		printf("slot_mib=%lu stall_max_percent=%.2f\n", size / SZ_1M,
		       stalls.max * c->ns_per_tick * 100 / ns);
		printf("slot_mib=%lu faults_per_ms=%.2f\n", size / SZ_1M,
		       stalls.nr * 1000000.0 / ns);
	}
	if (c->p->invalidate)
		report(size, "invalidate", &c->invalidations, 1);
	if (c->p->probe)
		report(size, "other_get", &c->probes, 1);
}

static void populate(void *mem, u64 size)
{
	u64 offset;

	for (offset = 0; offset < size; offset += page_size)
		WRITE_ONCE(*(u64 *)(mem + offset), 1);
}

static u64 default_fault_size(u64 size)
{
	u64 fault_size = max_t(u64, MIN_FAULT_MEM_SIZE, nr_faulters * (u64)MIN_FAULTER_MEM_SIZE);

	return max(fault_size, size / 16);
}

static void create_vm(enum vm_guest_mode mode, struct contention *c, u64 size)
{
	u64 probe_pages, faulter_pages, gpa;
	struct kvm_vm *vm;
	int i;

	page_size = vm_guest_mode_params[mode].page_size;
	TEST_ASSERT(page_size == (u64)getpagesize(), "Guest and host pages must be of one size");
	log_pages = size / page_size;
	c->fault_size = c->p->fault_size ?: default_fault_size(size);
	fault_pages = c->fault_size / page_size;
	__TEST_REQUIRE(!nr_faulters || fault_pages / nr_faulters > FAULTS_BEFORE_HARVEST,
		       "Too little memory to fault on, see -F");
	faulter_pages = DIV_ROUND_UP(nr_faulters * sizeof(*faulters), page_size);
	probe_pages = PROBE_MEM_SIZE / page_size;

	vm = __vm_create(VM_SHAPE(mode), 1 + nr_faulters,
			 2 * (log_pages + fault_pages) + PTES_PER_MIN_PAGE * faulter_pages);
	if (c->p->manual)
		vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
			      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);

	c->vcpus = calloc(1 + nr_faulters, sizeof(*c->vcpus));
	c->threads = calloc(1 + nr_faulters, sizeof(*c->threads));
	TEST_ASSERT(c->vcpus && c->threads, "No memory");
	for (i = 0; i < 1 + nr_faulters; i++) {
		c->vcpus[i] = vm_vcpu_add(vm, i, guest_code);
		vcpu_args_set(c->vcpus[i], 1, i);
	}
	kvm_arch_vm_finalize_vcpus(vm);
	/* A running vCPU can't be asked. */
	c->ns_per_tick = ns_per_tick(c->vcpus[WRITER]);

	gpa = align_down((vm->max_gfn - log_pages) * page_size, SZ_2M);
	vm_userspace_mem_region_add(vm, c->p->backing_src, gpa, LOG_SLOT, log_pages,
				    KVM_MEM_LOG_DIRTY_PAGES);
	virt_map(vm, LOG_GVA, gpa, log_pages);

	gpa = align_down(gpa - c->fault_size, SZ_2M);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, gpa, FAULT_SLOT, fault_pages, 0);
	virt_map(vm, FAULT_GVA, gpa, fault_pages);
	c->fault_mem = addr_gpa2hva(vm, gpa);
	/* In place, so that faults are KVM's alone. */
	populate(c->fault_mem, c->fault_size);

	gpa = align_down(gpa - PROBE_MEM_SIZE, SZ_2M);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, gpa, PROBE_SLOT, probe_pages,
				    KVM_MEM_LOG_DIRTY_PAGES);
	c->invalidate_mem = addr_gpa2hva(vm, gpa);
	populate(c->invalidate_mem, PROBE_MEM_SIZE);

	sync_global_to_guest(vm, page_size);
	sync_global_to_guest(vm, log_pages);
	sync_global_to_guest(vm, fault_pages);
	sync_global_to_guest(vm, nr_faulters);
	sync_global_to_guest(vm, nr_writers);
	if (faulter_pages)
		faulters = (struct faulter *)vm_alloc_pages(vm, faulter_pages);
	sync_global_to_guest(vm, faulters);

	/* Everything else is zero in a new VM, and is read and written in place. */
	c->vm = vm;
	if (faulter_pages)
		c->faulters = addr_gva2hva(vm, (gva_t)faulters);
	c->harvest_seq = addr_gva2hva(vm, (gva_t)&harvest_seq);
	c->writer_passes = addr_gva2hva(vm, (gva_t)&writer_passes);
	c->bitmap = bitmap_zalloc(log_pages);
}

static void run_size(enum vm_guest_mode mode, const struct test_params *p, u64 size)
{
	pthread_t invalidate_thread, probe_thread;
	struct contention *c = &contention;
	int i;

	memset(c, 0, sizeof(*c));
	c->p = p;
	create_vm(mode, c, size);

	WRITE_ONCE(host_stop, false);
	WRITE_ONCE(passes_wanted, p->keep_writing ? -1ull : 0);
	pin_self_to_nth_cpu(&allowed_cpus, 1 + nr_faulters);
	for (i = 0; i < 1 + nr_faulters; i++)
		kvm_pthread_create(&c->threads[i], NULL, vcpu_worker, c->vcpus[i]);
	if (p->invalidate)
		kvm_pthread_create(&invalidate_thread, NULL, invalidator, c);
	if (p->probe)
		kvm_pthread_create(&probe_thread, NULL, prober, c);

	/* The first pass and the first harvest populate memory and page tables. */
	dirty_memory(c);
	harvest(c);
	for (i = 1; i <= p->iterations; i++)
		run_iteration(c, size, i);

	/* The guest first: the writer must find it set when it is let go. */
	WRITE_AND_SYNC_TO_GUEST(c->vm, guest_stop, true);
	WRITE_ONCE(host_stop, true);
	if (p->invalidate)
		kvm_pthread_join(invalidate_thread, NULL);
	if (p->probe)
		kvm_pthread_join(probe_thread, NULL);
	for (i = 0; i < 1 + nr_faulters; i++)
		kvm_pthread_join(c->threads[i], NULL);

	free(c->bitmap);
	free(c->threads);
	free(c->vcpus);
	kvm_vm_free(c->vm);
}

static void run_test(enum vm_guest_mode mode, void *arg)
{
	const struct test_params *p = arg;
	u64 size;

	for (size = p->min_size; size <= p->max_size; size *= 4)
		run_size(mode, p, size);
}

static void help(char *name)
{
	puts("");
	printf("usage: %s [-h] [-b min bytes] [-B max bytes] [-f faulters] [-F bytes] [-g]\n"
	       "       [-i] [-m mode] [-n iterations] [-p] [-s mem type] [-w]\n", name);
	puts("");
	printf(" -b: size of the smallest memslot (default: 32M)\n");
	printf(" -B: size of the largest one; sizes quadruple (default: 512M)\n");
	printf(" -f: number of vCPUs that take faults (default: 1); 0 to time the harvest alone\n");
	printf(" -F: size of the memory that they fault on (default: at least 64M)\n");
	printf(" -g: harvest with KVM_GET_DIRTY_LOG (default: KVM_CLEAR_DIRTY_LOG)\n");
	printf(" -i: invalidate other memory meanwhile, report how long that takes\n");
	guest_modes_help();
	printf(" -n: number of harvests per size (default: 3)\n");
	printf(" -p: get the log of another memslot meanwhile, report how long that takes\n");
	backing_src_help("-s");
	printf(" -w: keep writing during the harvest\n");
	puts("");
	exit(0);
}

int main(int argc, char *argv[])
{
	struct test_params p = {
		.backing_src = DEFAULT_VM_MEM_SRC,
		.min_size = SZ_32M,
		.max_size = SZ_512M,
		.iterations = 3,
		.manual = true,
	};
	int nr_cpus, opt;

	guest_modes_append_default();

	while ((opt = getopt(argc, argv, "b:B:f:F:ghim:n:ps:w")) != -1) {
		switch (opt) {
		case 'b':
			p.min_size = parse_size(optarg);
			break;
		case 'B':
			p.max_size = parse_size(optarg);
			break;
		case 'f':
			nr_faulters = atoi_non_negative("Number of faulting vCPUs", optarg);
			TEST_ASSERT(1 + nr_faulters <= (int)kvm_check_cap(KVM_CAP_MAX_VCPUS),
				    "KVM has at most %d vCPUs", kvm_check_cap(KVM_CAP_MAX_VCPUS));
			break;
		case 'F':
			p.fault_size = parse_size(optarg);
			TEST_ASSERT(p.fault_size && !(p.fault_size % SZ_2M),
				    "Memory must be a multiple of 2M");
			break;
		case 'g':
			p.manual = false;
			break;
		case 'i':
			p.invalidate = true;
			break;
		case 'm':
			guest_modes_cmdline(optarg);
			break;
		case 'n':
			p.iterations = atoi_positive("Number of harvests", optarg);
			break;
		case 'p':
			p.probe = true;
			break;
		case 's':
			p.backing_src = parse_backing_src_type(optarg);
			break;
		case 'w':
			p.keep_writing = true;
			break;
		case 'h':
		default:
			help(argv[0]);
			break;
		}
	}
	TEST_ASSERT(is_power_of_2(p.min_size) && p.min_size >= SZ_2M && p.max_size >= p.min_size,
		    "Sizes must be powers of two from 2M, the smallest first");
	nr_writers = p.keep_writing ? 1 : 1 + nr_faulters;
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) || !p.manual);
	/* One for each thread: the writer, the faulting vCPUs, who harvests, and who else does. */
	nr_cpus = 2 + nr_faulters + (p.invalidate || p.probe);
	__TEST_REQUIRE(get_allowed_cpus(&allowed_cpus) >= nr_cpus, "Needs %d CPUs", nr_cpus);

	for_each_guest_mode(run_test, &p);
	return 0;
}
