// SPDX-License-Identifier: GPL-2.0-only
/*
 * Create, delete, move and change memslots while vCPUs use them, and verify what vCPUs
 * read, and where their writes go.
 *
 * memslot_modification_stress_test does the former, and is content if nothing crashes.
 *
 *  - A memslot that stays: each vCPU reads back what it last wrote to each page.
 *  - Memslots that come and go, with memory that changes each time.  A vCPU reads the
 *    number of the memslot's memory, never an older one than it has seen, or, without a
 *    memslot, what userspace has KVM_EXIT_MMIO read.  Memory that is in no memslot any
 *    more must neither be read nor be written, that of a read-only memslot not be written.
 *
 * Meanwhile, the dirty logs are read, the memslot that stays is aged, if the kernel has
 * idle page tracking, and, on x86, the limit of shadow pages changes.
 *
 * What can't be tested: that a write by a vCPU went to a memslot that comes and goes, as
 * the vCPU can't tell if there was one.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "guest_clock.h"
#include "kvm_util.h"
#include "page_idle.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define STABLE_SLOT	10
#define FIRST_SLOT	11
#define NR_SLOTS	4
/* Each memslot is at either of two GPAs. */
#define NR_PLACES	2
#define STABLE_SIZE	SZ_8M
#define SLOT_SIZE	SZ_2M
#define SLOTS_SIZE	(NR_SLOTS * NR_PLACES * SLOT_SIZE)

#define STABLE_GVA	0xc0000000ul
#define SLOTS_GVA	0xd0000000ul
#define MAX_VCPUS	8

/* What memory says that belongs to no memslot, and what reading no memory gets. */
#define DEAD		0xdeaddeaddeaddeadul
#define NO_MEMORY	(-1ul)

struct test_params {
	enum vm_mem_backing_src_type backing_src;
	int nr_vcpus;
	int seconds;
	u32 seed;
	bool keep_slot_zap_all;
};

/* Shared with the guest. */
static u64 page_size;
static u64 stable_pages;
static u64 slot_pages;
static u32 guest_seed;
static bool guest_stop;
static u64 max_ticks[MAX_VCPUS];
static u64 accesses[MAX_VCPUS];

struct stress_slot {
	u32 id;
	int place;
	bool present;
	u32 flags;
	/* Two memories, and the one that is, or was last, in use. */
	u64 *mem[2];
	int cur;
	u64 number;
};

static struct stress_slot slots[NR_SLOTS];
static gpa_t slots_gpa;
static void *stable_mem;
static struct kvm_vm *vm;
static bool stop;

static void access_stable(struct kvm_random_state *rng, u32 vcpu, u64 *last, u64 value)
{
	u64 page = kvm_random_u32(rng) % stable_pages, start, ticks;
	u64 *word = (u64 *)(STABLE_GVA + page * page_size) + vcpu;

	start = guest_clock();
	GUEST_ASSERT_EQ(READ_ONCE(*word), last[page]);
	WRITE_ONCE(*word, value);
	ticks = guest_clock() - start;
	last[page] = value;
	if (ticks > max_ticks[vcpu])
		max_ticks[vcpu] = ticks;
}

static void access_slot(struct kvm_random_state *rng, u32 vcpu, u64 *seen, u64 value)
{
	u32 slot = kvm_random_u32(rng) % NR_SLOTS, place = kvm_random_u32(rng) % NR_PLACES;
	u64 page = kvm_random_u32(rng) % slot_pages, number;
	u64 *words = (u64 *)(SLOTS_GVA + (slot * NR_PLACES + place) * SLOT_SIZE +
			     page * page_size);

	number = READ_ONCE(words[0]);
	if (number != NO_MEMORY) {
		GUEST_ASSERT_NE(number, DEAD);
		GUEST_ASSERT(number >= seen[slot]);
		seen[slot] = number;
	}
	WRITE_ONCE(words[1 + vcpu], value);
}

static void guest_code(u32 vcpu, u64 *last)
{
	struct kvm_random_state rng = new_kvm_random_state(guest_seed + vcpu);
	u64 seen[NR_SLOTS] = {};
	u64 value = 0;

#ifdef __x86_64__
	/*
	 * Bochs ends guest mode for interrupts of the host only if the guest takes interrupts,
	 * and nothing else ends it here.  No interrupt is injected.
	 */
	sti();
#endif
	while (!READ_ONCE(guest_stop)) {
		access_stable(&rng, vcpu, last, ++value);
		access_slot(&rng, vcpu, seen, value);
	}
	WRITE_ONCE(accesses[vcpu], value);
	GUEST_DONE();
}

static void *vcpu_worker(void *data)
{
	struct kvm_vcpu *vcpu = data;
	struct kvm_run *run = vcpu->run;
	struct ucall uc;

	for (;;) {
		vcpu_run(vcpu);

		switch (get_ucall(vcpu, &uc)) {
		case UCALL_DONE:
			return NULL;
		case UCALL_ABORT:
			REPORT_GUEST_ASSERT(uc);
			break;
		case UCALL_NONE:
			TEST_ASSERT(run->exit_reason == KVM_EXIT_MMIO, "Unexpected exit: %s",
				    exit_reason_str(run->exit_reason));
			TEST_ASSERT(run->mmio.phys_addr >= slots_gpa &&
				    run->mmio.phys_addr < slots_gpa + SLOTS_SIZE,
				    "MMIO at 0x%llx", run->mmio.phys_addr);
			if (!run->mmio.is_write)
				memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
			break;
		default:
			TEST_FAIL("Unexpected ucall %lu", uc.cmd);
		}
	}
}

static gpa_t gpa_of(const struct stress_slot *slot)
{
	return slots_gpa + ((slot->id - FIRST_SLOT) * NR_PLACES + slot->place) * SLOT_SIZE;
}

static void set_slot(struct stress_slot *slot, u64 size)
{
	vm_set_user_memory_region(vm, slot->id, slot->flags, gpa_of(slot), size,
				  slot->mem[slot->cur]);
}

static void fill(u64 *mem, u64 value)
{
	u64 i;

	for (i = 0; i < SLOT_SIZE / sizeof(*mem); i++)
		WRITE_ONCE(mem[i], value);
}

/* All of the words, or the first of each page. */
static void verify(const struct stress_slot *slot, u64 value, u64 step, const char *what)
{
	const u64 *mem = slot->mem[slot->cur];
	u64 i;

	for (i = 0; i < SLOT_SIZE / sizeof(*mem); i += step)
		TEST_ASSERT(READ_ONCE(mem[i]) == value,
			    "Memslot %u, word %lu: 0x%lx, not 0x%lx, %s",
			    slot->id, i, mem[i], value, what);
}

static void create_slot(struct stress_slot *slot, u32 flags)
{
	slot->cur = !slot->cur;
	if (slot->number)
		verify(slot, DEAD, 1, "in memory that was in no memslot");
	fill(slot->mem[slot->cur], ++slot->number);
	slot->flags = flags;
	set_slot(slot, SLOT_SIZE);
	slot->present = true;
}

static void delete_slot(struct stress_slot *slot)
{
	bool readonly = slot->flags & KVM_MEM_READONLY;

	slot->flags = 0;
	set_slot(slot, 0);
	slot->present = false;
	verify(slot, slot->number, readonly ? 1 : page_size / sizeof(u64),
	       readonly ? "in a read-only memslot" : "which no vCPU writes");
	fill(slot->mem[slot->cur], DEAD);
}

static void change_slot(struct stress_slot *slot, struct kvm_random_state *rng)
{
	u32 flags[] = { 0, 0, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY };
	u32 what = kvm_random_u32(rng) % 4;

	if (!slot->present) {
		slot->place = kvm_random_u32(rng) % NR_PLACES;
		create_slot(slot, flags[what]);
	} else if (what == 0) {
		slot->place = !slot->place;
		set_slot(slot, SLOT_SIZE);
	} else if (what == 1 && !(slot->flags & KVM_MEM_READONLY)) {
		slot->flags ^= KVM_MEM_LOG_DIRTY_PAGES;
		set_slot(slot, SLOT_SIZE);
	} else {
		delete_slot(slot);
	}
}

static void *harvester(void *data)
{
	unsigned long *bitmap = bitmap_zalloc(STABLE_SIZE / page_size);
	int i;

	while (!READ_ONCE(stop)) {
		kvm_vm_get_dirty_log(vm, STABLE_SLOT, bitmap);
		for (i = 0; i < NR_SLOTS; i++) {
			struct kvm_dirty_log log = {
				.slot = FIRST_SLOT + i,
				.dirty_bitmap = bitmap,
			};

			/* The memslot may not be logged, or not be at all. */
			__vm_ioctl(vm, KVM_GET_DIRTY_LOG, &log);
		}
		usleep(1000);
	}
	free(bitmap);
	return NULL;
}

static void *ager(void *data)
{
	u64 *pfns = calloc(stable_pages, sizeof(*pfns)), page;
	int fd = open(PAGE_IDLE_BITMAP, O_RDWR);

	if (fd < 0 || !__look_up_pfns(stable_mem, page_size, stable_pages, pfns)) {
		pr_info("Nothing is aged: that takes idle page tracking, and root\n");
		return NULL;
	}
	while (!READ_ONCE(stop)) {
		for (page = 0; page < stable_pages && !READ_ONCE(stop); page++)
			write_page_idle(fd, pfns[page] / PAGE_IDLE_BITS,
					1ull << pfns[page] % PAGE_IDLE_BITS);
		usleep(1000);
	}
	close(fd);
	free(pfns);
	return NULL;
}

#ifdef __x86_64__
static void *limiter(void *seed)
{
	struct kvm_random_state rng = new_kvm_random_state((unsigned long)seed);

	while (!READ_ONCE(stop)) {
		/* 64 is what KVM takes for the minimum. */
		vm_ioctl(vm, KVM_SET_NR_MMU_PAGES,
			 (void *)(64ul + kvm_random_u32(&rng) % 1024));
		usleep(2000);
	}
	return NULL;
}
#else
static void *limiter(void *seed)
{
	return NULL;
}
#endif

static void setup_slots(const struct test_params *p)
{
	gpa_t gpa;
	int i, j;

	page_size = vm->page_size;
	stable_pages = STABLE_SIZE / page_size;
	slot_pages = SLOT_SIZE / page_size;

	gpa = align_down((vm->max_gfn - stable_pages) * page_size, SZ_2M);
	vm_userspace_mem_region_add(vm, p->backing_src, gpa, STABLE_SLOT, stable_pages,
				    KVM_MEM_LOG_DIRTY_PAGES);
	virt_map(vm, STABLE_GVA, gpa, stable_pages);
	stable_mem = addr_gpa2hva(vm, gpa);
	memset(stable_mem, 0, STABLE_SIZE);

	slots_gpa = gpa - SLOTS_SIZE;
	virt_map(vm, SLOTS_GVA, slots_gpa, NR_SLOTS * NR_PLACES * slot_pages);
	for (i = 0; i < NR_SLOTS; i++) {
		slots[i].id = FIRST_SLOT + i;
		for (j = 0; j < 2; j++) {
			slots[i].mem[j] = kvm_mmap(SLOT_SIZE, PROT_READ | PROT_WRITE,
						   MAP_PRIVATE | MAP_ANONYMOUS, -1);
			fill(slots[i].mem[j], DEAD);
		}
	}

	guest_seed = p->seed;
	sync_global_to_guest(vm, page_size);
	sync_global_to_guest(vm, stable_pages);
	sync_global_to_guest(vm, slot_pages);
	sync_global_to_guest(vm, guest_seed);
}

static void run_test(const struct test_params *p)
{
	struct kvm_random_state rng = new_kvm_random_state(p->seed);
	pthread_t threads[MAX_VCPUS], harvest, age, limit;
	u64 changes = 0, ticks = 0, nr_accesses = 0, page;
	struct timespec start, elapsed;
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	u64 *last[MAX_VCPUS];
	double ns;
	int i;

	vm = __vm_create(VM_SHAPE_DEFAULT, p->nr_vcpus, 2 * (STABLE_SIZE / getpagesize()));
#ifdef __x86_64__
	if (!p->keep_slot_zap_all &&
	    (kvm_check_cap(KVM_CAP_DISABLE_QUIRKS2) & KVM_X86_QUIRK_SLOT_ZAP_ALL))
		vm_enable_cap(vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_SLOT_ZAP_ALL);
#endif
	for (i = 0; i < p->nr_vcpus; i++)
		vcpus[i] = vm_vcpu_add(vm, i, guest_code);
	kvm_arch_vm_finalize_vcpus(vm);
	/* A running vCPU can't be asked. */
	ns = ns_per_tick(vcpus[0]);
	setup_slots(p);
	for (i = 0; i < p->nr_vcpus; i++) {
		gva_t gva = vm_alloc_pages(vm, DIV_ROUND_UP(stable_pages * sizeof(u64), page_size));

		last[i] = addr_gva2hva(vm, gva);
		vcpu_args_set(vcpus[i], 2, i, gva);
	}

	stop = false;
	for (i = 0; i < p->nr_vcpus; i++)
		kvm_pthread_create(&threads[i], NULL, vcpu_worker, vcpus[i]);
	kvm_pthread_create(&harvest, NULL, harvester, NULL);
	kvm_pthread_create(&age, NULL, ager, NULL);
	kvm_pthread_create(&limit, NULL, limiter, (void *)(unsigned long)p->seed);

	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		change_slot(&slots[kvm_random_u32(&rng) % NR_SLOTS], &rng);
		changes++;
		elapsed = timespec_elapsed(start);
	} while (elapsed.tv_sec < p->seconds);

	WRITE_AND_SYNC_TO_GUEST(vm, guest_stop, true);
	WRITE_ONCE(stop, true);
	for (i = 0; i < p->nr_vcpus; i++)
		kvm_pthread_join(threads[i], NULL);
	kvm_pthread_join(harvest, NULL);
	kvm_pthread_join(age, NULL);
	kvm_pthread_join(limit, NULL);

	for (i = 0; i < p->nr_vcpus; i++) {
		for (page = 0; page < stable_pages; page++)
			TEST_ASSERT_EQ(((u64 *)(stable_mem + page * page_size))[i], last[i][page]);
	}
	for (i = 0; i < NR_SLOTS; i++) {
		if (slots[i].present)
			delete_slot(&slots[i]);
	}
	sync_global_from_guest(vm, max_ticks);
	sync_global_from_guest(vm, accesses);
	for (i = 0; i < p->nr_vcpus; i++) {
		ticks = max(ticks, max_ticks[i]);
		nr_accesses += accesses[i];
	}
	TEST_ASSERT(nr_accesses, "vCPUs did nothing");
	printf("seed=%u zap_all=%d\n", p->seed, p->keep_slot_zap_all);
	printf("changes_per_second=%.0f\n", changes * 1e9 / timespec_to_ns(elapsed));
	printf("accesses_per_second=%.0f\n", nr_accesses * 1e9 / timespec_to_ns(elapsed));
	printf("worst_stall_us=%.0f\n", ticks * ns / 1000);
	kvm_vm_free(vm);
}

static void help(char *name)
{
	puts("");
	printf("usage: %s [-h] [-r seed] [-s mem type] [-t seconds] [-v vcpus] [-z]\n", name);
	puts("");
	printf(" -r: seed of all random choices (default: by the clock)\n");
	backing_src_help("-s");
	printf(" -t: seconds (default: 2)\n");
	printf(" -v: number of vCPUs (default: 2)\n");
	printf(" -z: keep the quirk KVM_X86_QUIRK_SLOT_ZAP_ALL\n");
	puts("");
	exit(0);
}

int main(int argc, char *argv[])
{
	struct test_params p = {
		.backing_src = VM_MEM_SRC_ANONYMOUS,
		.nr_vcpus = 2,
		.seconds = 2,
		.seed = time(NULL),
	};
	int opt;

	while ((opt = getopt(argc, argv, "hr:s:t:v:z")) != -1) {
		switch (opt) {
		case 'r':
			p.seed = atoi_non_negative("Seed", optarg);
			break;
		case 's':
			p.backing_src = parse_backing_src_type(optarg);
			break;
		case 't':
			p.seconds = atoi_positive("Seconds", optarg);
			break;
		case 'v':
			p.nr_vcpus = atoi_positive("Number of vCPUs", optarg);
			TEST_ASSERT(p.nr_vcpus <= MAX_VCPUS, "At most %d vCPUs", MAX_VCPUS);
			break;
		case 'z':
			p.keep_slot_zap_all = true;
			break;
		case 'h':
		default:
			help(argv[0]);
			break;
		}
	}
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_READONLY_MEM));

	pr_info("Seed %u\n", p.seed);
	run_test(&p);
	return 0;
}
