// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure faults on shadow pages with and without kvm.shared_shadow_faults, in turn: vCPUs write
 * to memory that isn't mapped yet, each its share, all of them at a time.  Reported are
 *  - populate_us: how long the slowest vCPU took;
 *  - fault_ns: how long a write to a page took, on average;
 *  - faults_shared: how many faults of 1000 pages were handled with mmu_lock held for read, and
 *    faults_locked: how many were tried that way in vain, and took it for write;
 *  - l1_fault_ns: with nested guests, and a CPU to spare, how long the same took a vCPU that isn't
 *    nested, whose faults are the TDP MMU's, and which took no part in the above
 * for a guest, if KVM uses shadow pages for it, or for a nested guest.
 *
 * All times are in terms of the guest's clock.  On an emulator whose clock counts instructions,
 * one nanosecond is one instruction, be it the guest's or the host's.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "guest_clock.h"
#include "kvm_param.h"
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

/* Set by the host. */
static u64 pages_per_vcpu;
static u64 nr_started;
/* Set by the guest: how long each vCPU took. */
static u64 *ticks;
static u64 started;

static void guest_code(u32 vcpu)
{
	u64 mem = TEST_GVA + vcpu * pages_per_vcpu * PAGE_SIZE, page, start;

	__sync_fetch_and_add(&started, 1);
	while (READ_ONCE(started) < nr_started)
		cpu_relax();

	start = guest_clock();
	for (page = 0; page < pages_per_vcpu; page++)
		WRITE_ONCE(*(u64 *)(mem + page * PAGE_SIZE), start);
	ticks[vcpu] = guest_clock() - start;
	GUEST_SYNC(0);
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

static void *run_vcpu(void *arg)
{
	struct vcpu_thread *t = arg;

	pin_self_to_nth_cpu(t->cpus, t->vcpu->id);
	run_until(t->vcpu, UCALL_SYNC);
	return NULL;
}

static bool guest_is_nested(void)
{
	return kvm_is_tdp_enabled() && get_kvm_param_bool("tdp_mmu");
}

/* If @l1, there is another vCPU, the last one, which stays in L1. */
static void measure(const char *mode, int nr_counted, bool l1, u64 size, const cpu_set_t *cpus)
{
	int nr_nested = guest_is_nested() ? nr_counted : 0;
	int nr_vcpus = nr_counted + l1, i;
	struct vcpu_thread *threads = calloc(nr_vcpus, sizeof(*threads));
	u64 pages, counted, shared = 0, again = 0, slowest = 0, sum = 0;
	struct kvm_vm *vm;
	double tick;
	u64 *host_ticks;

	TEST_ASSERT(threads, "No memory");
	pages_per_vcpu = size / PAGE_SIZE / nr_vcpus;
	pages = pages_per_vcpu * nr_vcpus;
	counted = pages_per_vcpu * nr_counted;
	nr_started = nr_vcpus;
	started = 0;

	vm = __vm_create(VM_SHAPE_DEFAULT, nr_vcpus, pages / 64);
	for (i = 0; i < nr_vcpus; i++) {
		threads[i].vcpu = vm_vcpu_add(vm, i, i < nr_nested ? (void *)l1_guest_code :
							     (void *)guest_code);
		threads[i].cpus = cpus;
		vcpu_args_set(threads[i].vcpu, 1, i);
	}
	kvm_arch_vm_finalize_vcpus(vm);
	tick = ns_per_tick(threads[0].vcpu);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, pages, 0);
	/* One fault per page, each of which allocates. */
	madvise(addr_gpa2hva(vm, TEST_GPA), pages * PAGE_SIZE, MADV_NOHUGEPAGE);
	virt_map(vm, TEST_GVA, TEST_GPA, pages);
	ticks = (u64 *)vm_alloc_pages(vm, DIV_ROUND_UP(nr_vcpus * sizeof(*ticks), PAGE_SIZE));
	if (nr_nested) {
		vm_enable_tdp(vm);
		for (i = 0; i < nr_nested; i++)
			vcpu_args_set(threads[i].vcpu, 2, i, vcpu_alloc_nested(vm));
		tdp_map(vm, TEST_GPA, TEST_GPA, pages * PAGE_SIZE);
		/* Last, as only pages that are in use are mapped. */
		tdp_identity_map_default_memslots(vm);
	}
	sync_global_to_guest(vm, pages_per_vcpu);
	sync_global_to_guest(vm, nr_started);
	sync_global_to_guest(vm, started);
	sync_global_to_guest(vm, ticks);

	for (i = 0; i < nr_vcpus; i++)
		kvm_pthread_create(&threads[i].thread, NULL, run_vcpu, &threads[i]);
	for (i = 0; i < nr_vcpus; i++)
		kvm_pthread_join(threads[i].thread, NULL);

	host_ticks = addr_gva2hva(vm, (gva_t)ticks);
	for (i = 0; i < nr_counted; i++) {
		slowest = max(slowest, host_ticks[i]);
		sum += host_ticks[i];
		if (has_kvm_param()) {
			shared += vcpu_get_stat(threads[i].vcpu, pf_shared);
			again += vcpu_get_stat(threads[i].vcpu, pf_again);
		}
	}
	printf("mode=%s vcpus=%d populate_us=%.0f\n", mode, nr_counted, slowest * tick / 1000);
	printf("mode=%s vcpus=%d fault_ns=%.0f\n", mode, nr_counted, sum * tick / counted);
	if (shared) {
		printf("mode=%s vcpus=%d faults_shared=%lu\n", mode, nr_counted,
		       (unsigned long)(shared * 1000 / counted));
		printf("mode=%s vcpus=%d faults_locked=%lu\n", mode, nr_counted,
		       (unsigned long)(again * 1000 / counted));
	}
	if (l1)
		printf("mode=%s vcpus=%d l1_fault_ns=%.0f\n", mode, nr_counted,
		       host_ticks[nr_vcpus - 1] * tick / pages_per_vcpu);
	free(threads);
	kvm_vm_free(vm);
}

static void help(const char *name)
{
	printf("usage: %s [-h] [-b bytes] [-n passes] [-v vCPUs]\n", name);
	printf(" -b: size of the memory (default: 64M)\n");
	printf(" -n: how often to populate it in each mode (default: 3)\n");
	printf(" -v: how many vCPUs fault on shadow pages (default: 1)\n");
	exit(0);
}

int main(int argc, char **argv)
{
	int vcpus = 1, passes = 3, nr_cpus, opt, i;
	u64 size = SZ_64M;
	bool l1, shared;
	cpu_set_t cpus;

	while ((opt = getopt(argc, argv, "b:hn:v:")) != -1) {
		switch (opt) {
		case 'b':
			size = parse_size(optarg);
			break;
		case 'n':
			passes = atoi_positive("passes", optarg);
			break;
		case 'v':
			vcpus = atoi_positive("vCPUs", optarg);
			break;
		default:
			help(argv[0]);
		}
	}
	TEST_ASSERT(size && !(size % SZ_2M), "Memory must be a multiple of 2M");
	if (guest_is_nested())
		TEST_REQUIRE(kvm_cpu_has_tdp());
	nr_cpus = get_allowed_cpus(&cpus);
	__TEST_REQUIRE(nr_cpus >= vcpus, "%d vCPUs need as many CPUs", vcpus);
	l1 = guest_is_nested() && nr_cpus > vcpus;

	for (i = 0; i < passes; i++) {
		if (!can_set_kvm_param("shared_shadow_faults")) {
			shared = has_kvm_param() && get_kvm_param_bool("shared_shadow_faults");
			measure(shared ? "shared" : "exclusive", vcpus, l1, size, &cpus);
			continue;
		}
		set_kvm_param(false);
		measure("exclusive", vcpus, l1, size, &cpus);
		set_kvm_param(true);
		measure("shared", vcpus, l1, size, &cpus);
	}
	return 0;
}
