// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure what it costs guests with shadow paging to unmap pages: each vCPU maps a 4KiB
 * page, writes it, unmaps it and executes INVLPG, over and over, all of them at a time,
 * each with page tables of its own.  Reported are, for each number of vCPUs,
 *  - how long that takes per page;
 *  - how many flushes of all vCPUs' TLBs KVM requested, and how many INVLPG deferred;
 *  - how often mmu_lock was taken for write, if the kernel has CONFIG_LOCK_STAT.
 *
 * If KVM can defer the flushes, do all of this with and without, in turn.
 *
 * With TDP, KVM doesn't intercept INVLPG, i.e. there is nothing to measure.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "kvm_param.h"
#include "kvm_util.h"
#include "lock_stat.h"
#include "pin_util.h"
#include "processor.h"
#include "run_until.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GPA	((gpa_t)SZ_4G)
#define TEST_GVA	0xc0000000ul
#define PTE_GVA		0xd0000000ul
/* As much as one page table maps, lest vCPUs share any. */
#define VCPU_SIZE	SZ_2M

static u64 nr_pages = 5000;

/* Set by the host: where a vCPU finds its PTE. */
static u64 *guest_ptes[KVM_MAX_VCPUS];
static u64 started;
static u64 nr_vcpus;

static void guest_code(u64 vcpu)
{
	u64 *mem = (u64 *)(TEST_GVA + vcpu * VCPU_SIZE), *pte = guest_ptes[vcpu], i;
	u64 mapped = READ_ONCE(*pte);

	/* The first page isn't measured: shadow pages have to be created. */
	WRITE_ONCE(*mem, 0);
	WRITE_ONCE(*pte, 0);
	invlpg((u64)mem);
	GUEST_SYNC(0);

	__atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
	while (READ_ONCE(started) != nr_vcpus)
		cpu_relax();

	for (i = 0; i < nr_pages; i++) {
		WRITE_ONCE(*pte, mapped);
		WRITE_ONCE(*mem, i);
		WRITE_ONCE(*pte, 0);
		invlpg((u64)mem);
	}
	GUEST_DONE();
}

struct vcpu_thread {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	cpu_set_t *cpus;
	int nr;
};

static void *run_vcpu(void *arg)
{
	struct vcpu_thread *t = arg;

	pin_self_to_nth_cpu(t->cpus, t->nr);
	run_until(t->vcpu, UCALL_DONE);
	return NULL;
}

static void measure(int vcpus, cpu_set_t *cpus, const char *name)
{
	struct vcpu_thread threads[KVM_MAX_VCPUS];
	u64 flushes, deferred = 0, locks = 0;
	struct timespec start;
	struct kvm_vm *vm;
	double us;
	int i;

	vm = __vm_create(VM_SHAPE_DEFAULT, vcpus, 0);
	for (i = 0; i < vcpus; i++)
		threads[i].vcpu = vm_vcpu_add(vm, i, guest_code);
	kvm_arch_vm_finalize_vcpus(vm);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, vcpus, 0);

	for (i = 0; i < vcpus; i++) {
		gva_t gva = TEST_GVA + i * VCPU_SIZE, pte_gva = PTE_GVA + i * PAGE_SIZE;
		u64 *pte;

		virt_map(vm, gva, TEST_GPA + i * PAGE_SIZE, 1);
		pte = vm_get_pte(vm, gva);
		virt_map(vm, pte_gva, align_down(addr_hva2gpa(vm, pte), PAGE_SIZE), 1);
		guest_ptes[i] = (u64 *)(pte_gva + (unsigned long)pte % PAGE_SIZE);
		vcpu_args_set(threads[i].vcpu, 1, i);
	}
	nr_vcpus = vcpus;
	sync_global_to_guest(vm, nr_vcpus);
	sync_global_to_guest(vm, nr_pages);
	sync_global_to_guest(vm, guest_ptes);

	for (i = 0; i < vcpus; i++)
		run_until(threads[i].vcpu, UCALL_SYNC);

	flushes = vm_get_stat(vm, remote_tlb_flush_requests);
	if (lock_stat_usable())
		locks = read_mmu_lock_counts().writes;
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (i = 0; i < vcpus; i++) {
		threads[i].cpus = cpus;
		threads[i].nr = i;
		kvm_pthread_create(&threads[i].thread, NULL, run_vcpu, &threads[i]);
	}
	for (i = 0; i < vcpus; i++)
		kvm_pthread_join(threads[i].thread, NULL);
	us = timespec_to_ns(timespec_elapsed(start)) / 1000.0 / nr_pages;

	flushes = vm_get_stat(vm, remote_tlb_flush_requests) - flushes;
	if (can_set_kvm_param("defer_tlb_flush"))
		deferred = vm_get_stat(vm, remote_tlb_flush_deferred);

	/* All vCPUs do the same at a time. */
	printf("vcpus=%d %s_us=%.2f\n", vcpus, name, us);
	printf("vcpus=%d %s_flushes_per_1000=%.1f\n", vcpus, name,
	       flushes * 1000.0 / nr_pages / vcpus);
	printf("vcpus=%d %s_deferred_per_1000=%.1f\n", vcpus, name,
	       deferred * 1000.0 / nr_pages / vcpus);
	if (lock_stat_usable())
		printf("vcpus=%d %s_write_locks_per_1000=%.1f\n", vcpus, name,
		       (read_mmu_lock_counts().writes - locks) * 1000.0 / nr_pages / vcpus);
	kvm_vm_free(vm);
}

static void help(const char *name)
{
	printf("usage: %s [-h] [-n pages] [-v vCPUs]\n", name);
	printf(" -n: number of pages that each vCPU unmaps (default: 5000)\n");
	printf(" -v: the largest number of vCPUs (default: 4, or as many as there are CPUs)\n");
	exit(0);
}

int main(int argc, char **argv)
{
	int max_vcpus = 4, vcpus, opt;
	cpu_set_t cpus;

	while ((opt = getopt(argc, argv, "hn:v:")) != -1) {
		switch (opt) {
		case 'n':
			nr_pages = atoi_positive("pages", optarg);
			break;
		case 'v':
			max_vcpus = atoi_positive("vCPUs", optarg);
			break;
		default:
			help(argv[0]);
		}
	}

	TEST_REQUIRE(!kvm_is_tdp_enabled());
	max_vcpus = min(max_vcpus, get_allowed_cpus(&cpus));

	for (vcpus = 1; vcpus <= max_vcpus; vcpus++) {
		if (!can_set_kvm_param("defer_tlb_flush")) {
			measure(vcpus, &cpus, "unmap");
			continue;
		}
		set_kvm_param(false);
		measure(vcpus, &cpus, "unmap");
		set_kvm_param(true);
		measure(vcpus, &cpus, "unmap_deferred");
		measure(vcpus, &cpus, "unmap_deferred");
		set_kvm_param(false);
		measure(vcpus, &cpus, "unmap");
	}
	return 0;
}
