// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure what it costs a guest to write its memory again after the dirty log was read,
 * i.e. to take a fault on each page.  All vCPUs write at a time, each its share, or, with
 * -s, all of them all pages.  After
 * each reading of the log, report
 *  - redirty_us: how long the slowest vCPU took;
 *  - fault_ns: how long a fault took, on average;
 *  - fixed_fast: how many of 1000 faults were fixed without mmu_lock;
 *  - handler_ns: how long kvm_mmu_page_fault() took, on average, if the kernel has
 *    CONFIG_FUNCTION_PROFILER, i.e. fault_ns without exit and entry, and how often KVM
 *    called it; not if somebody else is tracing functions
 * for a guest, and for a nested guest whose pages L1 maps as huge pages or 4K pages.
 *
 * All but handler_ns are in terms of the guest's clock.  On an emulator whose clock counts
 * instructions, one nanosecond is one instruction, be it the guest's or the host's.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "function_profile.h"
#include "guest_clock.h"
#include "kvm_util.h"
#include "nested_x86.h"
#include "pin_util.h"
#include "processor.h"
#include "run_until.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GPA	((gpa_t)SZ_4G)
#define TEST_GVA	0xc0000000ul
#define HANDLER		"kvm_mmu_page_fault"

enum nested {
	NOT_NESTED,
	NESTED_HUGE,
	NESTED_4K,
};

static const char * const names[] = {
	[NOT_NESTED]	= "plain",
	[NESTED_HUGE]	= "nested_huge",
	[NESTED_4K]	= "nested_4k",
};

/* Set by the host. */
static u64 pages_per_vcpu;
static bool share_pages;
/* Set by the guest: how long each vCPU took. */
static u64 *ticks;

static void guest_code(u32 vcpu)
{
	u64 first = share_pages ? 0 : vcpu * pages_per_vcpu, page, start;
	u64 mem = TEST_GVA + first * PAGE_SIZE;

	for (;;) {
		start = guest_clock();
		for (page = 0; page < pages_per_vcpu; page++)
			WRITE_ONCE(*(u64 *)(mem + page * PAGE_SIZE), start);
		ticks[vcpu] = guest_clock() - start;
		GUEST_SYNC(0);
	}
}

static void l1_guest_code(u32 vcpu, void *nested)
{
	enter_l2(guest_code, vcpu, nested);
}

struct vcpu_thread {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	const cpu_set_t *cpus;
};

static void setup_nested(struct kvm_vm *vm, struct vcpu_thread *threads, int nr_vcpus,
			 enum nested nested)
{
	u64 size = (share_pages ? 1 : nr_vcpus) * pages_per_vcpu * PAGE_SIZE;
	int i;

	vm_enable_tdp(vm);
	for (i = 0; i < nr_vcpus; i++) {
		vcpu_arch_set_entry_point(threads[i].vcpu, l1_guest_code);
		vcpu_args_set(threads[i].vcpu, 2, i, vcpu_alloc_nested(vm));
	}

	if (nested == NESTED_HUGE)
		tdp_map_2m(vm, TEST_GPA, TEST_GPA, size);
	else
		tdp_map(vm, TEST_GPA, TEST_GPA, size);
	/* Last, as only pages that are in use are mapped. */
	tdp_identity_map_default_memslots(vm);
}

static void *run_vcpu(void *arg)
{
	struct vcpu_thread *t = arg;

	pin_self_to_nth_cpu(t->cpus, t->vcpu->id);
	run_until(t->vcpu, UCALL_SYNC);
	return NULL;
}

/* Returns how many faults were fixed without mmu_lock. */
static u64 write_memory(struct vcpu_thread *threads, int nr_vcpus)
{
	u64 fast = 0;
	int i;

	for (i = 0; i < nr_vcpus; i++)
		fast -= vcpu_get_stat(threads[i].vcpu, pf_fast);
	for (i = 0; i < nr_vcpus; i++)
		kvm_pthread_create(&threads[i].thread, NULL, run_vcpu, &threads[i]);
	for (i = 0; i < nr_vcpus; i++) {
		kvm_pthread_join(threads[i].thread, NULL);
		fast += vcpu_get_stat(threads[i].vcpu, pf_fast);
	}
	return fast;
}

static void report(enum nested nested, int nr_vcpus, const u64 *ticks, u64 fast,
		   double ns_per_tick)
{
	u64 sum = 0, slowest = 0;
	int i;

	for (i = 0; i < nr_vcpus; i++) {
		sum += ticks[i];
		slowest = max(slowest, ticks[i]);
	}
	printf("guest=%s vcpus=%d redirty_us=%.1f\n", names[nested], nr_vcpus,
	       slowest * ns_per_tick / 1000);
	printf("guest=%s vcpus=%d fault_ns=%.1f\n", names[nested], nr_vcpus,
	       sum * ns_per_tick / nr_vcpus / pages_per_vcpu);
	printf("guest=%s vcpus=%d fixed_fast=%.1f\n", names[nested], nr_vcpus,
	       fast * 1000.0 / nr_vcpus / pages_per_vcpu);
}

static void measure(enum nested nested, int nr_vcpus, u64 size, int passes,
		    const cpu_set_t *cpus)
{
	struct vcpu_thread *threads = calloc(nr_vcpus, sizeof(*threads));
	struct function_profile profile;
	unsigned long *bitmap;
	struct kvm_vm *vm;
	u64 pages, fast;
	double tick;
	int i;

	TEST_ASSERT(threads, "No memory");
	pages_per_vcpu = size / PAGE_SIZE / (share_pages ? 1 : nr_vcpus);
	pages = share_pages ? pages_per_vcpu : pages_per_vcpu * nr_vcpus;
	bitmap = bitmap_zalloc(pages);

	vm = __vm_create(VM_SHAPE_DEFAULT, nr_vcpus, pages / 64);
	for (i = 0; i < nr_vcpus; i++) {
		threads[i].vcpu = vm_vcpu_add(vm, i, guest_code);
		threads[i].cpus = cpus;
		vcpu_args_set(threads[i].vcpu, 1, i);
	}
	kvm_arch_vm_finalize_vcpus(vm);
	tick = ns_per_tick(threads[0].vcpu);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, pages,
				    KVM_MEM_LOG_DIRTY_PAGES);
	virt_map(vm, TEST_GVA, TEST_GPA, pages);
	ticks = (u64 *)vm_alloc_pages(vm, DIV_ROUND_UP(nr_vcpus * sizeof(*ticks), PAGE_SIZE));
	if (nested != NOT_NESTED)
		setup_nested(vm, threads, nr_vcpus, nested);
	sync_global_to_guest(vm, pages_per_vcpu);
	sync_global_to_guest(vm, share_pages);
	sync_global_to_guest(vm, ticks);

	/* The first time, shadow pages have to be created. */
	write_memory(threads, nr_vcpus);
	for (i = 0; i < passes; i++) {
		kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
		fast = write_memory(threads, nr_vcpus);
		report(nested, nr_vcpus, addr_gva2hva(vm, (gva_t)ticks), fast, tick);
	}
	/* In a pass of its own, as it isn't for free. */
	if (function_profile_usable()) {
		kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
		function_profile_start(HANDLER);
		write_memory(threads, nr_vcpus);
		profile = function_profile_stop(HANDLER);
		printf("guest=%s vcpus=%d handler_calls=%lu\n", names[nested], nr_vcpus,
		       profile.calls);
		if (profile.calls)
			printf("guest=%s vcpus=%d handler_ns=%.1f\n", names[nested], nr_vcpus,
			       profile.us * 1000 / profile.calls);
	}
	free(bitmap);
	free(threads);
	kvm_vm_free(vm);
}

static void help(const char *name)
{
	printf("usage: %s [-h] [-b bytes] [-n passes] [-s] [-v vCPUs]\n", name);
	printf(" -b: size of the memory (default: 64M)\n");
	printf(" -n: how often to read the log, per guest and number of vCPUs (default: 5)\n");
	printf(" -s: all vCPUs write the same pages\n");
	printf(" -v: the largest number of vCPUs, doubled from 1 on (default: 1)\n");
	exit(0);
}

int main(int argc, char **argv)
{
	int max_vcpus = 1, passes = 5, vcpus, opt;
	enum nested nested;
	u64 size = SZ_64M;
	cpu_set_t cpus;

	while ((opt = getopt(argc, argv, "b:hn:sv:")) != -1) {
		switch (opt) {
		case 'b':
			size = parse_size(optarg);
			break;
		case 's':
			share_pages = true;
			break;
		case 'n':
			passes = atoi_positive("passes", optarg);
			break;
		case 'v':
			max_vcpus = atoi_positive("vCPUs", optarg);
			break;
		default:
			help(argv[0]);
		}
	}
	TEST_ASSERT(size && !(size % SZ_2M), "Memory must be a multiple of 2M");
	__TEST_REQUIRE(get_allowed_cpus(&cpus) >= max_vcpus, "%d vCPUs need as many CPUs",
		       max_vcpus);

	for (nested = NOT_NESTED; nested <= NESTED_4K; nested++) {
		if (nested != NOT_NESTED && !kvm_cpu_has_tdp())
			break;
		for (vcpus = 1; vcpus < max_vcpus; vcpus *= 2)
			measure(nested, vcpus, size, passes, &cpus);
		measure(nested, max_vcpus, size, passes, &cpus);
	}
	return 0;
}
