// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure how fast vCPUs write memory while the dirty log of that memory is harvested again
 * and again, as by a VMM that migrates the VM.
 *
 * vCPUs write pages of a memslot of their own, in random order, and count; the host counts
 * for a second without logging ("unlogged"), and then what is written during harvests
 * ("harvesting"), and between them ("between"), all as "..._writes_per_ms" of all vCPUs.  A
 * write to a page takes a fault if it is the first one since the page was harvested.
 *
 * How many pages a harvest finds ("pages_per_harvest") says what has to be copied for each
 * period.  A guest that is stalled for less by its harvests dirties more pages in between: what
 * a VMM that throttles guests to have a migration converge takes for its aim is the latter.
 *
 * How long the longest harvest took ("longest_harvest_us") is KVM's own figure, if it has one.
 *
 * Results are one "key=value" a line.  All times are those of the machine the test runs on, on
 * an emulated one only ratios mean something.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "harvest_stat.h"
#include "kvm_util.h"
#include "pin_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define FIRST_SLOT	10
#define TEST_GVA	0xc0000000ul
#define MAX_VCPUS	64

struct counter {
	u64 writes;
	u64 pad[31];
};

/* Shared with the guest. */
static struct counter counters[MAX_VCPUS];
static u64 page_size;
static u64 nr_pages;
static bool guest_stop;

static void guest_code(u32 vcpu)
{
	struct kvm_random_state rng = new_kvm_random_state(vcpu + 1);
	u64 base = TEST_GVA + vcpu * nr_pages * page_size, page;

	for (page = 0; page < nr_pages; page++)
		WRITE_ONCE(*(u64 *)(base + page * page_size), page);
	GUEST_SYNC(0);

	while (!READ_ONCE(guest_stop)) {
		page = kvm_random_u32(&rng) % nr_pages;
		WRITE_ONCE(*(u64 *)(base + page * page_size), page);
		WRITE_ONCE(counters[vcpu].writes, counters[vcpu].writes + 1);
	}
	GUEST_DONE();
}

static struct kvm_vcpu *vcpus[MAX_VCPUS];
static unsigned long *bitmaps[MAX_VCPUS];
static int nr_vcpus;

static void run_vcpu_until(struct kvm_vcpu *vcpu, u64 cmd)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), cmd);
}

static void *vcpu_worker(void *vcpu)
{
	run_vcpu_until(vcpu, UCALL_DONE);
	return NULL;
}

struct sample {
	u64 writes;
	s64 ns;
};

static struct sample now(struct counter *guest)
{
	struct sample s = {};
	struct timespec ts;
	int i;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	s.ns = timespec_to_ns(ts);
	for (i = 0; i < nr_vcpus; i++)
		s.writes += READ_ONCE(guest[i].writes);
	return s;
}

static void add(struct sample *sum, struct sample from, struct sample to)
{
	sum->writes += to.writes - from.writes;
	sum->ns += to.ns - from.ns;
}

static void report(const char *name, struct sample sum)
{
	printf("%s_writes_per_ms=%.1f\n", name, sum.writes * 1e6 / sum.ns);
}

static void harvest(struct kvm_vm *vm, bool manual)
{
	u64 host_pages = vm_num_host_pages(vm->mode, nr_pages);
	int i;

	for (i = 0; i < nr_vcpus; i++) {
		kvm_vm_get_dirty_log(vm, FIRST_SLOT + i, bitmaps[i]);
		if (manual)
			kvm_vm_clear_dirty_log(vm, FIRST_SLOT + i, bitmaps[i], 0, host_pages);
	}
}

/* How many pages the last harvest found. */
static u64 nr_dirty(struct kvm_vm *vm)
{
	u64 host_pages = vm_num_host_pages(vm->mode, nr_pages), page, dirty = 0;
	int i;

	for (i = 0; i < nr_vcpus; i++) {
		for (page = 0; page < host_pages; page++)
			dirty += test_bit(page, bitmaps[i]);
	}
	return dirty;
}

static void set_logging(struct kvm_vm *vm, u32 flags)
{
	int i;

	for (i = 0; i < nr_vcpus; i++)
		vm_mem_region_set_flags(vm, FIRST_SLOT + i, flags);
}

static void measure(u64 size, int nr_harvests, useconds_t period, bool manual)
{
	struct sample unlogged = {}, harvesting = {}, between = {}, before, after;
	pthread_t threads[MAX_VCPUS];
	struct counter *guest;
	struct kvm_vm *vm;
	u64 pages = 0, longest_ns = 0;
	gpa_t gpa;
	int i;

	vm = __vm_create(VM_SHAPE_DEFAULT, nr_vcpus, 2 * nr_vcpus * size / getpagesize());
	if (manual)
		vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
			      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	for (i = 0; i < nr_vcpus; i++) {
		vcpus[i] = vm_vcpu_add(vm, i, guest_code);
		vcpu_args_set(vcpus[i], 1, i);
	}
	kvm_arch_vm_finalize_vcpus(vm);

	page_size = vm->page_size;
	nr_pages = size / page_size;
	gpa = align_down((vm->max_gfn - nr_vcpus * nr_pages) * page_size, SZ_2M);
	for (i = 0; i < nr_vcpus; i++)
		vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, gpa + i * size,
					    FIRST_SLOT + i, nr_pages, 0);
	virt_map(vm, TEST_GVA, gpa, nr_vcpus * nr_pages);
	sync_global_to_guest(vm, page_size);
	sync_global_to_guest(vm, nr_pages);
	guest = addr_gva2hva(vm, (gva_t)counters);

	for (i = 0; i < nr_vcpus; i++) {
		bitmaps[i] = bitmap_zalloc(vm_num_host_pages(vm->mode, nr_pages));
		TEST_ASSERT(bitmaps[i], "No memory");
		run_vcpu_until(vcpus[i], UCALL_SYNC);
	}
	for (i = 0; i < nr_vcpus; i++)
		kvm_pthread_create(&threads[i], NULL, vcpu_worker, vcpus[i]);
	while (now(guest).writes < nr_vcpus * nr_pages)
		usleep(1000);

	before = now(guest);
	sleep(1);
	add(&unlogged, before, now(guest));

	set_logging(vm, KVM_MEM_LOG_DIRTY_PAGES);
	harvest(vm, manual);
	for (i = 0; i < nr_harvests; i++) {
		before = now(guest);
		usleep(period);
		after = now(guest);
		add(&between, before, after);
		harvest(vm, manual);
		add(&harvesting, after, now(guest));
		pages += nr_dirty(vm);
	}

	WRITE_ONCE(*(bool *)addr_gva2hva(vm, (gva_t)&guest_stop), true);
	for (i = 0; i < nr_vcpus; i++) {
		kvm_pthread_join(threads[i], NULL);
		free(bitmaps[i]);
	}
	if (has_harvest_stat(vm))
		longest_ns = longest_harvest_ns(vm);
	kvm_vm_free(vm);

	report("unlogged", unlogged);
	report("harvesting", harvesting);
	report("between", between);
	printf("harvest_us=%.1f\n", harvesting.ns / 1e3 / nr_harvests);
	if (longest_ns)
		printf("longest_harvest_us=%.1f\n", longest_ns / 1e3);
	printf("pages_per_harvest=%.0f\n", (double)pages / nr_harvests);
}

static void help(char *name)
{
	puts("");
	printf("usage: %s [-h] [-b bytes] [-g] [-n harvests] [-p period] [-v vcpus]\n", name);
	puts("");
	printf(" -b: size of the memory of each vCPU (default: 32M)\n");
	printf(" -g: KVM_GET_DIRTY_LOG clears, without manual protection\n");
	printf(" -n: number of harvests (default: 10)\n");
	printf(" -p: time between harvests, in milliseconds (default: 100)\n");
	printf(" -v: number of vCPUs, at most %d (default: CPUs but one)\n", MAX_VCPUS);
	puts("");
	exit(0);
}

int main(int argc, char *argv[])
{
	int nr_harvests = 10, period_ms = 100, opt;
	u64 size = SZ_32M;
	bool manual = true;
	cpu_set_t cpus;

	nr_vcpus = min_t(int, max_t(int, get_allowed_cpus(&cpus) - 1, 1), MAX_VCPUS);
	while ((opt = getopt(argc, argv, "hb:gn:p:v:")) != -1) {
		switch (opt) {
		case 'b':
			size = align_up(parse_size(optarg), SZ_2M);
			break;
		case 'g':
			manual = false;
			break;
		case 'n':
			nr_harvests = atoi_positive("Number of harvests", optarg);
			break;
		case 'p':
			period_ms = atoi_positive("Period", optarg);
			break;
		case 'v':
			nr_vcpus = atoi_positive("Number of vCPUs", optarg);
			TEST_ASSERT(nr_vcpus <= MAX_VCPUS, "At most %d vCPUs", MAX_VCPUS);
			break;
		case 'h':
		default:
			help(argv[0]);
			break;
		}
	}

	TEST_REQUIRE(!manual || (kvm_check_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) &
				 KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE));
	printf("vcpus=%d\n", nr_vcpus);
	measure(size, nr_harvests, period_ms * 1000, manual);
	return 0;
}
