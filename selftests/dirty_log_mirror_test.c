// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify the completeness of KVM's dirty log by mirroring guest memory.
 *
 * vCPUs write random pages of a dirty logged memslot, and never stop, while
 * the host harvests the log and copies every page that is reported dirty to a
 * mirror, i.e. does what live migration does.  In the end, the vCPUs stop, the
 * host harvests one last time, and the mirror and guest memory must be
 * identical.  A difference is a write that KVM failed to report.
 *
 * To not pass by reporting everything, some pages, chosen by the seed, are written
 * once or never: they must not be reported again once that write was reported.
 *
 * Noise from the rest of the host (memslot updates, zapped and collapsed mappings, KSM,
 * aging, swapping, other users of KVM's ioctls) can be added with -N.  With -n, nested guests do
 * the writing, i.e. KVM logs writes via shadow pages of L1's nested page tables.  With
 * -d, the host takes its time to copy a page, i.e. is as slow, next to its guests, as one
 * that sends it over a network.  With -H, two threads clear the log, each of one half.
 *
 * What can't be tested: that a page that is written again and again is reported only
 * if it was written since the last harvest.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <asm/barrier.h>
#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/sizes.h>

#include "cgroup_util.h"
#include "eager_split.h"
#include "guest_modes.h"
#include "kvm_util.h"
#include "pin_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#if defined(__x86_64__)
#include "nested_x86.h"
#elif defined(__aarch64__)
#include "nested_el2.h"
#endif

#define TEST_SLOT		10
#define NOISE_SLOT		11
#define NOISE_MEM_SIZE		SZ_4M
/* KVM wants a ring to be a page at least, of 64 KiB if need be. */
#define RING_ENTRIES		4096

#define MAX_VCPUS		16
#define MAX_HARVESTERS		2
/* Far beyond what a vCPU needs to look at a variable in its memory. */
#define STOP_SECONDS		10

#define DEFAULT_SECONDS		1
#define DEFAULT_MEM_SIZE	SZ_32M
#define DEFAULT_NR_VCPUS	2

enum log_mode {
	/* KVM_GET_DIRTY_LOG, which clears and write-protects */
	LOG_MODE_GET,
	/* KVM_GET_DIRTY_LOG, then KVM_CLEAR_DIRTY_LOG in random chunks */
	LOG_MODE_CLEAR,
	/* The same, and all pages are initially dirty */
	LOG_MODE_INIT_SET,
	/* The dirty ring of each vCPU, and KVM_RESET_DIRTY_RINGS */
	LOG_MODE_RING,
	/* The same, and all pages would be initially dirty if there were a bitmap */
	LOG_MODE_RING_INIT_SET,
	NR_LOG_MODES,
};

static const char * const log_mode_names[NR_LOG_MODES] = {
	[LOG_MODE_GET]			= "get",
	[LOG_MODE_CLEAR]		= "clear",
	[LOG_MODE_INIT_SET]		= "init-set",
	[LOG_MODE_RING]			= "ring",
	[LOG_MODE_RING_INIT_SET]	= "ring-init-set",
};

enum noise {
	/* Switch dirty logging of another memslot on and off */
	NOISE_FLAGS,
	/* mprotect() test memory, which zaps its SPTEs; it stays writable */
	NOISE_PROTECT,
	/* MADV_DONTNEED memory of another memslot */
	NOISE_DONTNEED,
	/* Collapse test memory into huge pages */
	NOISE_COLLAPSE,
	/* Let KSM merge test memory, and break it up again */
	NOISE_KSM,
	/* Age test memory via the idle page bitmap */
	NOISE_AGE,
	/* Have KVM recycle shadow pages, by changing how many there may be */
	NOISE_RECYCLE,
	/* Have KVM map pages before vCPUs do, which marks them dirty */
	NOISE_PREFAULT,
	/* Have the host swap, by reclaiming the memory cgroup that the test then has */
	NOISE_RECLAIM,
	NR_NOISES,
};

static const char * const noise_names[NR_NOISES] = {
	[NOISE_FLAGS]		= "flags",
	[NOISE_PROTECT]		= "protect",
	[NOISE_DONTNEED]	= "dontneed",
	[NOISE_COLLAPSE]	= "collapse",
	[NOISE_KSM]		= "ksm",
	[NOISE_AGE]		= "age",
	[NOISE_RECYCLE]		= "recycle",
	[NOISE_PREFAULT]	= "prefault",
	[NOISE_RECLAIM]		= "reclaim",
};

struct test_params {
	unsigned long log_modes;
	enum log_mode log_mode;
	enum vm_mem_backing_src_type backing_src;
	unsigned long noises;
	u64 mem_size;
	int nr_vcpus;
	int seconds;
	int nr_harvesters;
	u64 copy_ns;
	u32 seed;
	bool nested;
	bool eager_split;
	const char *cgroup;
};

/* How often vCPUs write a page. */
enum page_kind {
	WRITTEN_OFTEN,
	WRITTEN_ONCE,
	NEVER_WRITTEN,
};

/* Shared with the guest, by sync_global_to_guest(). */
static gva_t test_gva = 0xc0000000;
static gva_t noise_gva = 0xb0000000;
static u64 guest_page_size;
static u64 host_page_size;
static u64 guest_nr_pages;
static u64 noise_nr_pages;
static u32 guest_seed;
static bool guest_stop;

/* Writes per vCPU, as told by the guest when it stops. */
static u64 guest_writes[MAX_VCPUS];
/* Pages, from the first on, of which those to be written once have been. */
static u64 guest_once;

/* Clears the log of a part of the memslot. */
struct harvester {
	struct mirror *m;
	struct kvm_random_state rng;
	unsigned long *bitmap;
	u64 first, end;
	/* Clear all that is dirty, not just some of it. */
	bool all;
	u64 nr_dirty;
	u64 nr_reported;
};

struct mirror {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	const struct test_params *p;
	struct kvm_random_state rng;

	/* With -n, L2's addresses of test memory are L1's and this. */
	gpa_t nested_offset;
	/* Never runs. */
	struct kvm_vcpu *prefaulter;

	void *mem;
	void *noise_mem;
	void *copy;
	gpa_t gpa;
	u64 nr_pages;
	/* Those that are written often. */
	u64 nr_often;
	size_t page_size;
	unsigned long *bitmap;
	struct harvester harvesters[MAX_HARVESTERS];

	/* What guest_once was before this harvest. */
	u64 once;
	/* How often pages were reported that weren't written anymore. */
	u8 *nr_extra;

	u64 nr_harvests;
	u64 nr_full;
	u64 nr_reported;
	u64 nr_noises[NR_NOISES];
};

static cpu_set_t allowed_cpus;
static struct mirror mirror;
static bool vcpus_running;
static bool noise_stop;

static void guest_write(gva_t page, u32 vcpu_idx, u64 value)
{
	WRITE_ONCE(((u64 *)page)[vcpu_idx], value);
}

/*
 * Of each 16 pages, one is written once, and one never.  The log is one of the host's
 * pages: guest pages are of the kind of those they begin in.
 */
static enum page_kind kind_of(u64 host_page)
{
	struct kvm_random_state rng = new_kvm_random_state(guest_seed + host_page);

	/* However small the memslot, there is something to write. */
	if (!host_page)
		return WRITTEN_OFTEN;

	/* What consecutive seeds yield first isn't random. */
	kvm_random_u32(&rng);
	switch (kvm_random_u32(&rng) % 16) {
	case 0:
		return WRITTEN_ONCE;
	case 1:
		return NEVER_WRITTEN;
	default:
		return WRITTEN_OFTEN;
	}
}

static enum page_kind guest_kind_of(u64 page)
{
	return kind_of(page * guest_page_size / host_page_size);
}

/* Write the next page that is to be written once, if there is one left. */
static void write_once(u32 vcpu_idx, u64 value)
{
	u64 page = guest_once;

	if (page == guest_nr_pages)
		return;
	if (guest_kind_of(page) == WRITTEN_ONCE)
		guest_write(test_gva + page * guest_page_size, vcpu_idx, value);
	/* The write, and the fault that it takes, first. */
	smp_store_release(&guest_once, page + 1);
}

static void guest_code(u32 vcpu_idx)
{
	struct kvm_random_state rng = new_kvm_random_state(guest_seed + vcpu_idx);
	u64 writes = 0;
	u64 page;

#ifdef __x86_64__
	/*
	 * Bochs ends guest mode for interrupts of the host only if the guest takes interrupts,
	 * and nothing else ends it here.  No interrupt is injected.
	 */
	sti();
#endif
	do {
		/*
		 * Every vCPU owns a word of each page, so that vCPUs fault on
		 * the same pages, yet don't overwrite each other's values.
		 */
		do {
			page = kvm_random_u32(&rng) % guest_nr_pages;
		} while (guest_kind_of(page) != WRITTEN_OFTEN);
		guest_write(test_gva + page * guest_page_size, vcpu_idx, ++writes);

		if (!(writes % 8)) {
			if (!vcpu_idx)
				write_once(vcpu_idx, writes);

			page = kvm_random_u32(&rng) % noise_nr_pages;
			guest_write(noise_gva + page * guest_page_size, vcpu_idx, writes);
		}
	} while (!READ_ONCE(guest_stop));

	guest_writes[vcpu_idx] = writes;
	GUEST_DONE();
}

#ifdef __x86_64__
static void l1_guest_code(u32 vcpu_idx, void *nested)
{
	enter_l2(guest_code, vcpu_idx, nested);
}

/*
 * Have L1 map everything with 2M pages, so that KVM is free to use huge pages if the
 * memory has them.  Test memory has other addresses in L2 than in L1, lest KVM gets away
 * with logging the former.
 */
static void setup_nested(struct mirror *m, gpa_t gpa, u64 size)
{
	gpa_t start = align_down(gpa, SZ_2M);
	int i;

	vm_enable_tdp(m->vm);
	tdp_map_2m(m->vm, 0, 0, SZ_1G);
	tdp_map_2m(m->vm, start + m->nested_offset, start, align_up(gpa + size, SZ_2M) - start);

	for (i = 0; i < m->p->nr_vcpus; i++) {
		vcpu_arch_set_entry_point(m->vcpus[i], l1_guest_code);
		vcpu_args_set(m->vcpus[i], 2, i, vcpu_alloc_nested(m->vm));
	}
}

static bool nested_supported(void)
{
	return (kvm_cpu_has(X86_FEATURE_VMX) || kvm_cpu_has(X86_FEATURE_SVM)) &&
	       kvm_cpu_has_tdp();
}

static bool nested_mode_supported(enum vm_guest_mode mode)
{
	return true;
}

#define NESTED_OFFSET		(-2 * (gpa_t)SZ_4G)
/* Page tables for all of L2's memory, and control blocks and stacks. */
#define NESTED_PAGES(nr_vcpus)	(513 + 10 * (nr_vcpus))
#elif defined(__aarch64__)
static void l1_guest_code(u32 vcpu_idx, gpa_t stage2)
{
	enter_l2(guest_code, vcpu_idx, stage2);
}

static void setup_nested(struct mirror *m, gpa_t gpa, u64 size)
{
	gpa_t stage2 = create_l1_stage2(m->vm);
	int i;

	for (i = 0; i < m->p->nr_vcpus; i++) {
		__TEST_REQUIRE(vcpu_has_el2(m->vcpus[i]), "NV=0 and -n contradict each other");
		vcpu_arch_set_entry_point(m->vcpus[i], l1_guest_code);
		vcpu_args_set(m->vcpus[i], 2, i, stage2);
	}
}

static bool nested_supported(void)
{
	return kvm_has_cap(KVM_CAP_ARM_EL2);
}

static bool nested_mode_supported(enum vm_guest_mode mode)
{
	return vm_guest_mode_params[mode].pa_bits == L2_IPA_BITS;
}

#define NESTED_OFFSET		0
/* All vCPUs share L1's page tables. */
#define NESTED_PAGES(nr_vcpus)	((nr_vcpus) ? L1_STAGE2_PAGES : 0)
#else
static void setup_nested(struct mirror *m, gpa_t gpa, u64 size)
{
}

static bool nested_supported(void)
{
	return false;
}

static bool nested_mode_supported(enum vm_guest_mode mode)
{
	return false;
}

#define NESTED_OFFSET		0
#define NESTED_PAGES(nr_vcpus)	0
#endif

static void report_unexpected_exit(struct kvm_vcpu *vcpu)
{
	u64 rip = 0;

#ifdef __x86_64__
	struct kvm_regs regs;

	vcpu_regs_get(vcpu, &regs);
	rip = regs.rip;
#endif
	/* The RIP helps to tell a broken guest from a broken emulator. */
	printf("unexpected exit %s of vCPU %u rip=0x%lx\n",
	       exit_reason_str(vcpu->run->exit_reason), vcpu->id, rip);
	TEST_FAIL("Unexpected exit: %s", exit_reason_str(vcpu->run->exit_reason));
}

static void kick(int __always_unused signr)
{
	/* Nothing to do, the signal is there to make KVM_RUN return. */
}

static void *vcpu_worker(void *data)
{
	struct kvm_vcpu *vcpu = data;
	struct ucall uc;

	/* Preempting a vCPU for another one hides races, more than it adds. */
	pin_self_to_nth_cpu(&allowed_cpus, vcpu->id);

	while (!READ_ONCE(vcpus_running))
		sched_yield();

	for (;;) {
		if (__vcpu_run(vcpu)) {
			TEST_ASSERT(errno == EINTR, KVM_IOCTL_ERROR(KVM_RUN, -1));
			report_unexpected_exit(vcpu);
		}

		if (vcpu->run->exit_reason == KVM_EXIT_DIRTY_RING_FULL) {
			sched_yield();
			continue;
		}

		switch (get_ucall(vcpu, &uc)) {
		case UCALL_DONE:
			return NULL;
		case UCALL_ABORT:
			REPORT_GUEST_ASSERT(uc);
			break;
		default:
			report_unexpected_exit(vcpu);
		}
	}
}

/*
 * The library's memcpy(), which has to work in guests, copies byte by byte; a
 * slow copy means few harvests.  READ_ONCE() as vCPUs write the same memory,
 * and to keep the compiler from turning the loop into memcpy().
 */
static void copy_words(u64 *to, const u64 *from, u64 size)
{
	u64 i;

	for (i = 0; i < size / sizeof(*to); i++)
		to[i] = READ_ONCE(from[i]);
}

static void take_time(u64 ns)
{
	struct timespec start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	while (timespec_to_ns(timespec_elapsed(start)) < (s64)ns)
		;
}

/* A page was reported: take note if nobody has written it since guest_once was read. */
static void note_report(struct mirror *m, u64 page)
{
	enum page_kind kind = kind_of(page);

	if (kind == WRITTEN_OFTEN)
		return;
	if (kind == WRITTEN_ONCE && (page + 1) * host_page_size > m->once * guest_page_size)
		return;
	if (m->nr_extra[page] < 255)
		m->nr_extra[page]++;
}

/*
 * How often a page may be reported that isn't written anymore: for the one write that there
 * was, and as it was dirty initially.
 */
static int may_be_reported(struct mirror *m, u64 page)
{
	return (kind_of(page) == WRITTEN_ONCE) + (m->p->log_mode == LOG_MODE_INIT_SET);
}

/* Copy the pages of [first, first + nr) that are set in the bitmap, and return how many. */
static u64 copy_reported(struct mirror *m, const unsigned long *bitmap, u64 first, u64 nr)
{
	u64 page, reported = 0;

	for (page = first; page < first + nr; page++) {
		if (!test_bit(page, bitmap))
			continue;

		copy_words(m->copy + page * m->page_size,
			   m->mem + page * m->page_size, m->page_size);
		note_report(m, page);
		if (m->p->copy_ns)
			take_time(m->p->copy_ns);
		reported++;
	}
	return reported;
}

static u64 harvest_get(struct mirror *m)
{
	kvm_vm_get_dirty_log(m->vm, TEST_SLOT, m->bitmap);
	return copy_reported(m, m->bitmap, 0, m->nr_pages);
}

static u64 count_dirty(const struct harvester *h)
{
	u64 page, nr = 0;

	for (page = h->first; page < h->end; page++)
		nr += test_bit(page, h->bitmap);
	return nr;
}

/* Leave some pages dirty, as userspace may.  They are reported again. */
static void drop_some(struct harvester *h)
{
	u64 word;

	for (word = h->first / BITS_PER_LONG; word < DIV_ROUND_UP(h->end, BITS_PER_LONG); word++) {
		if (!(kvm_random_u32(&h->rng) % 8))
			h->bitmap[word] &= kvm_random_u64(&h->rng);
	}
}

/* Clear, then copy: a page must be write-protected by the time it is copied. */
static void *clear_part(void *data)
{
	struct harvester *h = data;
	struct mirror *m = h->m;
	u64 first, nr;

	kvm_vm_get_dirty_log(m->vm, TEST_SLOT, h->bitmap);
	h->nr_dirty = count_dirty(h);
	h->nr_reported = 0;
	if (!h->all)
		drop_some(h);

	for (first = h->first; first < h->end; first += nr) {
		/* KVM wants multiples of 64 pages, except for the tail. */
		nr = 64ull << (kvm_random_u32(&h->rng) % 8);
		nr = min(nr, h->end - first);

		kvm_vm_clear_dirty_log(m->vm, TEST_SLOT,
				       (void *)h->bitmap + first / 8, first, nr);
		h->nr_reported += copy_reported(m, h->bitmap, first, nr);
	}
	return NULL;
}

static u64 harvest_clear(struct mirror *m, bool all)
{
	pthread_t threads[MAX_HARVESTERS];
	u64 reported = 0, dirty = 0;
	int i;

	for (i = 0; i < m->p->nr_harvesters; i++) {
		m->harvesters[i].all = all;
		if (i)
			kvm_pthread_create(&threads[i], NULL, clear_part, &m->harvesters[i]);
	}
	clear_part(&m->harvesters[0]);
	for (i = 0; i < m->p->nr_harvesters; i++) {
		if (i)
			kvm_pthread_join(threads[i], NULL);
		reported += m->harvesters[i].nr_reported;
		dirty += m->harvesters[i].nr_dirty;
	}
	TEST_ASSERT(m->nr_harvests || m->p->log_mode != LOG_MODE_INIT_SET || dirty == m->nr_pages,
		    "Initially, %lu of %lu pages were dirty", dirty, m->nr_pages);
	return reported;
}

static u64 ring_collect(struct mirror *m)
{
	struct kvm_dirty_gfn *ring, *gfn;
	u64 count = 0;
	int i;

	for (i = 0; i < m->p->nr_vcpus; i++) {
		struct kvm_vcpu *vcpu = m->vcpus[i];

		ring = vcpu_map_dirty_ring(vcpu);

		for (;; vcpu->fetch_index++) {
			gfn = &ring[vcpu->fetch_index % RING_ENTRIES];

			if (smp_load_acquire(&gfn->flags) != KVM_DIRTY_GFN_F_DIRTY)
				break;

			/* Logging of the noise slot may be on, its content is of no interest. */
			if (gfn->slot == TEST_SLOT) {
				TEST_ASSERT(gfn->offset < m->nr_pages,
					    "Ring entry beyond the memslot: 0x%llx >= 0x%lx",
					    gfn->offset, m->nr_pages);
				__set_bit(gfn->offset, m->bitmap);
			}
			smp_store_release(&gfn->flags, KVM_DIRTY_GFN_F_RESET);
			count++;
		}
	}
	return count;
}

/* Reset, then copy, for the same reason as in clear_part(). */
static u64 harvest_ring(struct mirror *m)
{
	u64 collected, reset;

	bitmap_zero(m->bitmap, m->nr_pages);
	collected = ring_collect(m);
	reset = kvm_vm_reset_dirty_ring(m->vm);
	TEST_ASSERT(collected == reset, "KVM reset %lu entries, %lu were collected",
		    reset, collected);
	return copy_reported(m, m->bitmap, 0, m->nr_pages);
}

static bool uses_ring(enum log_mode log_mode)
{
	return log_mode == LOG_MODE_RING || log_mode == LOG_MODE_RING_INIT_SET;
}

/* With @all, everything that is dirty is copied. */
static void harvest(struct mirror *m, bool all)
{
	u64 reported;

	/* What was written by now is in the log by now. */
	m->once = smp_load_acquire((u64 *)addr_gva2hva(m->vm, (gva_t)&guest_once));

	switch (m->p->log_mode) {
	case LOG_MODE_GET:
		reported = harvest_get(m);
		break;
	case LOG_MODE_RING:
	case LOG_MODE_RING_INIT_SET:
		reported = harvest_ring(m);
		break;
	default:
		reported = harvest_clear(m, all);
		break;
	}
	m->nr_harvests++;
	m->nr_reported += reported;
	m->nr_full += reported >= m->nr_often;
}

/*
 * Mark random pages of test memory idle, i.e. clear their accessed bits and
 * those of their SPTEs.  Harvesting races with it for the same SPTEs.
 */
static bool age_memory(struct mirror *m, struct kvm_random_state *rng,
		       int pagemap_fd, int idle_fd)
{
	u64 idle = ~0ull, entry, pfn;
	off_t page;
	int i;

	if (pagemap_fd < 0 || idle_fd < 0)
		return false;

	for (i = 0; i < 32; i++) {
		page = (unsigned long)m->mem / m->page_size + kvm_random_u32(rng) % m->nr_pages;
		if (pread(pagemap_fd, &entry, sizeof(entry), page * sizeof(entry)) != sizeof(entry))
			return false;
		/* Bit 63: present.  Bits 54:0: the PFN. */
		if (!(entry >> 63))
			continue;
		pfn = entry & GENMASK_ULL(54, 0);
		if (pwrite(idle_fd, &idle, sizeof(idle), pfn / 64 * 8) != sizeof(idle))
			return false;
	}
	return true;
}

static bool prefault(struct mirror *m, u64 start, u64 size)
{
	struct kvm_pre_fault_memory range = { .gpa = m->gpa + start, .size = size };

	if (!m->prefaulter) {
		errno = EOPNOTSUPP;
		return false;
	}
	/* KVM may have other things to do, like zapping the memory. */
	return !__vcpu_ioctl(m->prefaulter, KVM_PRE_FAULT_MEMORY, &range) ||
	       errno == EAGAIN || errno == EINTR;
}

/* Returns false if this host can't make that noise. */
static bool make_noise(struct mirror *m, enum noise kind,
		       struct kvm_random_state *rng, int pagemap_fd, int idle_fd)
{
	u64 len = m->nr_pages * m->page_size;
	u64 start = align_down(kvm_random_u64(rng) % len, getpagesize());
	u64 n = min_t(u64, len - start, getpagesize() << (kvm_random_u32(rng) % 10));
	int prot = PROT_READ | PROT_WRITE;
	u64 huge;

	switch (kind) {
	case NOISE_FLAGS:
		vm_mem_region_set_flags(m->vm, NOISE_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
		vm_mem_region_set_flags(m->vm, NOISE_SLOT, 0);
		return true;
	case NOISE_PROTECT:
		/*
		 * Any change of protections zaps SPTEs.  Toggle PROT_EXEC, as
		 * KVM_RUN would fail if the memory weren't writable.  Protect
		 * huge pages as a whole, hugetlbfs knows no other way.
		 */
		if (is_backing_src_hugetlb(m->p->backing_src)) {
			start = align_down(start, get_backing_src_pagesz(m->p->backing_src));
			n = min_t(u64, get_backing_src_pagesz(m->p->backing_src), len - start);
		}
		return !mprotect(m->mem + start, n, prot | PROT_EXEC) &&
		       !mprotect(m->mem + start, n, prot);
	case NOISE_DONTNEED:
		return !madvise(m->noise_mem + start % NOISE_MEM_SIZE, getpagesize(),
				MADV_DONTNEED);
	case NOISE_COLLAPSE:
		errno = EOPNOTSUPP;
		if (!thp_configured())
			return false;
		huge = get_trans_hugepagesz();
		start = align_up((unsigned long)m->mem + start, huge);
		if (start + huge > (unsigned long)m->mem + len)
			start = align_up((unsigned long)m->mem, huge);
		if (start + huge > (unsigned long)m->mem + len)
			return false;
		/*
		 * May well fail, e.g. as a page is in use or its protections are
		 * being changed.  Collapsing makes work for all CPUs, go easy.
		 */
		if (madvise((void *)start, huge, MADV_COLLAPSE))
			m->nr_noises[kind]--;
		usleep(20000);
		return true;
	case NOISE_KSM:
		return !madvise(m->mem, len, MADV_MERGEABLE) &&
		       !usleep(2000) &&
		       !madvise(m->mem + start, n, MADV_UNMERGEABLE);
	case NOISE_AGE:
		return age_memory(m, rng, pagemap_fd, idle_fd);
	case NOISE_RECYCLE:
		/*
		 * The lowest limit that KVM takes on x86, and one that is out of the
		 * way.  Building page tables anew is work for vCPUs, go easy.
		 */
		usleep(5000);
		return !__vm_ioctl(m->vm, KVM_SET_NR_MMU_PAGES,
				   (void *)(kvm_random_bool(rng) ? 64ul : 4096ul));
	case NOISE_PREFAULT:
		return prefault(m, start, n);
	case NOISE_RECLAIM:
		/*
		 * Falls short if all of it is in use.  Swapping it in is work for
		 * vCPUs, go easy.
		 */
		usleep(5000);
		errno = -cg_write(m->p->cgroup, "memory.reclaim", "1M");
		return !errno || errno == EAGAIN;
	default:
		TEST_FAIL("Unknown noise %d", kind);
	}
}

static void *noise_worker(void *data)
{
	enum noise kind = (unsigned long)data;
	struct mirror *m = &mirror;
	struct kvm_random_state rng = new_kvm_random_state(m->p->seed + 1000 + kind);
	int idle_fd = open("/sys/kernel/mm/page_idle/bitmap", O_RDWR);
	int pagemap_fd = open("/proc/self/pagemap", O_RDONLY);

	/* All noise comes from one CPU, which is no vCPU's. */
	pin_self_to_nth_cpu(&allowed_cpus, m->p->nr_vcpus);

	while (!READ_ONCE(noise_stop)) {
		if (!make_noise(m, kind, &rng, pagemap_fd, idle_fd)) {
			pr_info("No noise '%s' here: %s\n", noise_names[kind], strerror(errno));
			break;
		}
		m->nr_noises[kind]++;
		/* Noise, not a roar: vCPUs must get something done in between. */
		usleep(500);
	}

	if (idle_fd >= 0)
		close(idle_fd);
	if (pagemap_fd >= 0)
		close(pagemap_fd);
	return NULL;
}

static void enable_log_mode(struct kvm_vm *vm, enum log_mode log_mode)
{
	switch (log_mode) {
	case LOG_MODE_CLEAR:
		vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
			      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
		break;
	case LOG_MODE_INIT_SET:
	case LOG_MODE_RING_INIT_SET:
		vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
			      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
			      KVM_DIRTY_LOG_INITIALLY_SET);
		break;
	default:
		break;
	}
	if (uses_ring(log_mode))
		vm_enable_dirty_ring(vm, RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
}

static bool log_mode_supported(enum log_mode log_mode)
{
	if (uses_ring(log_mode) && !kvm_has_cap(KVM_CAP_DIRTY_LOG_RING) &&
	    !kvm_has_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL))
		return false;

	switch (log_mode) {
	case LOG_MODE_CLEAR:
		return kvm_check_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) &
		       KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
	case LOG_MODE_INIT_SET:
	case LOG_MODE_RING_INIT_SET:
		return kvm_check_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) &
		       KVM_DIRTY_LOG_INITIALLY_SET;
	default:
		return true;
	}
}

static void create_vm(enum vm_guest_mode mode, struct mirror *m)
{
	const struct test_params *p = m->p;
	u64 align, noise_pages, pages, gpa;
	struct kvm_vm *vm;
	int i;

	guest_page_size = vm_guest_mode_params[mode].page_size;
	pages = vm_adjust_num_guest_pages(mode, p->mem_size / guest_page_size);
	noise_pages = vm_adjust_num_guest_pages(mode, NOISE_MEM_SIZE / guest_page_size);

	/* Twice the page tables' worth, they are small and sizes vary by mode. */
	vm = __vm_create(VM_SHAPE(mode), p->nr_vcpus + 1, 2 * (pages + noise_pages) +
			 (p->nested ? NESTED_PAGES(p->nr_vcpus) * PTES_PER_MIN_PAGE / 2 : 0));
	m->vm = vm;
	enable_log_mode(vm, p->log_mode);
	if (p->eager_split)
		vm_enable_eager_split(vm);

	for (i = 0; i < p->nr_vcpus; i++) {
		m->vcpus[i] = vm_vcpu_add(vm, i, guest_code);
		vcpu_args_set(m->vcpus[i], 1, i);
	}
	/* A ring of its own would overflow: mapping pages doesn't stop when it is full. */
	if ((p->noises & BIT(NOISE_PREFAULT)) && !uses_ring(p->log_mode) &&
	    kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		m->prefaulter = vm_vcpu_add(vm, p->nr_vcpus, guest_code);
	kvm_arch_vm_finalize_vcpus(vm);

	align = max_t(u64, get_backing_src_pagesz(p->backing_src), SZ_2M);
	gpa = align_down((vm->max_gfn - pages) * guest_page_size, align);
	vm_userspace_mem_region_add(vm, p->backing_src, gpa, TEST_SLOT, pages, 0);
	m->gpa = gpa;
	m->mem = addr_gpa2hva(vm, gpa);
	m->nested_offset = p->nested ? NESTED_OFFSET : 0;
	virt_map(vm, test_gva, gpa + m->nested_offset, pages);

	gpa = align_down(gpa - NOISE_MEM_SIZE, align);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, gpa, NOISE_SLOT, noise_pages, 0);
	m->noise_mem = addr_gpa2hva(vm, gpa);
	virt_map(vm, noise_gva, gpa + m->nested_offset, noise_pages);

	if (p->nested)
		setup_nested(m, gpa, (vm->max_gfn + 1) * guest_page_size - gpa);

	m->page_size = getpagesize();
	m->nr_pages = vm_num_host_pages(mode, pages);
	m->bitmap = bitmap_zalloc(m->nr_pages);
	m->nr_extra = calloc(m->nr_pages, sizeof(*m->nr_extra));
	TEST_ASSERT(m->nr_extra, "No memory");
	m->copy = kvm_mmap(m->nr_pages * m->page_size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1);

	guest_nr_pages = pages;
	noise_nr_pages = noise_pages;
	guest_seed = p->seed;
	guest_stop = false;
	host_page_size = m->page_size;
	for (i = 0; i < (int)m->nr_pages; i++)
		m->nr_often += kind_of(i) == WRITTEN_OFTEN;

	sync_global_to_guest(vm, test_gva);
	sync_global_to_guest(vm, noise_gva);
	sync_global_to_guest(vm, guest_page_size);
	sync_global_to_guest(vm, host_page_size);
	sync_global_to_guest(vm, guest_nr_pages);
	sync_global_to_guest(vm, noise_nr_pages);
	sync_global_to_guest(vm, guest_seed);
	sync_global_to_guest(vm, guest_stop);
}

/* Each has its part of the memslot, which begins with a word of the log. */
static void create_harvesters(struct mirror *m)
{
	u64 part = align_down(m->nr_pages / m->p->nr_harvesters, 64);
	struct harvester *h;
	int i;

	for (i = 0; i < m->p->nr_harvesters; i++) {
		h = &m->harvesters[i];
		h->m = m;
		h->rng = new_kvm_random_state(m->p->seed + i);
		h->bitmap = bitmap_zalloc(m->nr_pages);
		h->first = i * part;
		h->end = i < m->p->nr_harvesters - 1 ? h->first + part : m->nr_pages;
	}
}

/*
 * Wait for a vCPU to stop.  If it doesn't, make KVM_RUN return, so that the test
 * fails and tells where the vCPU is, instead of hanging.
 */
static void join_vcpu(struct mirror *m, pthread_t thread)
{
	struct timespec start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	while (pthread_tryjoin_np(thread, NULL) == EBUSY) {
		if (timespec_elapsed(start).tv_sec >= STOP_SECONDS)
			pthread_kill(thread, SIGUSR1);

		/* A vCPU whose ring is full stops only once there is room again. */
		if (uses_ring(m->p->log_mode))
			harvest(m, true);
		usleep(1000);
	}
}

static u64 compare(struct mirror *m)
{
	u64 lost = 0, page;

	for (page = 0; page < m->nr_pages; page++) {
		u64 *mem = m->mem + page * m->page_size;
		u64 *copy = m->copy + page * m->page_size;

		if (!memcmp(mem, copy, m->page_size))
			continue;
		/* The first few are enough to see which vCPUs' writes are lost. */
		if (lost++ < 4)
			pr_info("Page 0x%lx: memory %lu %lu, mirror %lu %lu (vCPUs 0, 1)\n",
				page, mem[0], mem[1],
				copy[0], copy[1]);
	}
	return lost;
}

static u64 count_extra(struct mirror *m)
{
	u64 page, nr = 0;

	for (page = 0; page < m->nr_pages; page++) {
		if (m->nr_extra[page] <= may_be_reported(m, page))
			continue;
		if (nr++ < 4)
			pr_info("Page 0x%lx: written %s, but reported %d times after that\n", page,
				kind_of(page) == WRITTEN_ONCE ? "once" : "never",
				m->nr_extra[page]);
	}
	return nr;
}

static void run_test(enum vm_guest_mode mode, void *arg)
{
	const struct test_params *p = arg;
	pthread_t threads[MAX_VCPUS], noise_threads[NR_NOISES];
	struct mirror *m = &mirror;
	const char *name = log_mode_names[p->log_mode];
	u64 lost, extra, writes = 0;
	struct timespec start;
	int i;

	if (!log_mode_supported(p->log_mode)) {
		print_skip("Log mode '%s' not supported", name);
		return;
	}
	if (p->nested && !nested_mode_supported(mode)) {
		print_skip("No nested guests in mode '%s'", vm_guest_mode_string(mode));
		return;
	}

	memset(m, 0, sizeof(*m));
	m->p = p;
	m->rng = new_kvm_random_state(p->seed);
	create_vm(mode, m);
	create_harvesters(m);

	/* The CPUs up to here are the vCPUs', the next one is for all noise. */
	pin_self_to_nth_cpu(&allowed_cpus, p->nr_vcpus + 1);
	WRITE_ONCE(vcpus_running, false);
	WRITE_ONCE(noise_stop, false);
	for (i = 0; i < p->nr_vcpus; i++)
		kvm_pthread_create(&threads[i], NULL, vcpu_worker, m->vcpus[i]);
	WRITE_ONCE(vcpus_running, true);

	/* Have some memory mapped, and mapped huge, before logging begins. */
	usleep(50000);
	vm_mem_region_set_flags(m->vm, TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES);

	/*
	 * From here on, KVM tells what changes.  What there is already must be
	 * copied once, unless the log claims to start with all pages dirty.
	 */
	if (p->log_mode != LOG_MODE_INIT_SET)
		copy_words(m->copy, m->mem, m->nr_pages * m->page_size);

	for (i = 0; i < NR_NOISES; i++) {
		if (p->noises & BIT(i))
			kvm_pthread_create(&noise_threads[i], NULL, noise_worker,
					   (void *)(unsigned long)i);
	}

	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		harvest(m, false);
		/* From back-to-back to now and then. */
		if (kvm_random_bool(&m->rng))
			usleep(kvm_random_u32(&m->rng) % 2000);
	} while (timespec_elapsed(start).tv_sec < p->seconds);

	guest_stop = true;
	sync_global_to_guest(m->vm, guest_stop);
	for (i = 0; i < p->nr_vcpus; i++)
		join_vcpu(m, threads[i]);

	WRITE_ONCE(noise_stop, true);
	for (i = 0; i < NR_NOISES; i++) {
		if (p->noises & BIT(i))
			kvm_pthread_join(noise_threads[i], NULL);
	}

	/* The final harvest: vCPUs don't run, whatever they wrote is logged. */
	harvest(m, true);
	lost = compare(m);
	extra = count_extra(m);

	sync_global_from_guest(m->vm, guest_writes);
	for (i = 0; i < p->nr_vcpus; i++) {
		TEST_ASSERT(guest_writes[i], "vCPU %d didn't write anything", i);
		writes += guest_writes[i];
	}
	printf("mode=%s seed=%u\n", name, p->seed);
	printf("mode=%s harvests=%lu\n", name, m->nr_harvests);
	printf("mode=%s writes=%lu\n", name, writes);
	printf("mode=%s full_harvests=%lu\n", name, m->nr_full);
	printf("mode=%s reported=%lu\n", name, m->nr_reported);
	for (i = 0; i < NR_NOISES; i++) {
		if (p->noises & BIT(i))
			printf("mode=%s noise_%s=%lu\n", name, noise_names[i],
			       m->nr_noises[i]);
	}
	printf("mode=%s lost=%lu\n", name, lost);
	printf("mode=%s extra=%lu\n", name, extra);

	TEST_ASSERT(!lost, "%lu pages with writes that were not reported (mode %s, seed %u)",
		    lost, name, p->seed);
	TEST_ASSERT(m->nr_harvests > 1 && m->nr_reported,
		    "%lu harvests reported %lu pages, that proves nothing",
		    m->nr_harvests, m->nr_reported);
	/* Mapping pages before vCPUs do marks them dirty, written or not. */
	TEST_ASSERT(!extra || m->nr_noises[NOISE_PREFAULT],
		    "%lu pages were reported that were not written (mode %s, seed %u)",
		    extra, name, p->seed);

	for (i = 0; i < p->nr_harvesters; i++)
		free(m->harvesters[i].bitmap);
	free(m->nr_extra);
	kvm_munmap(m->copy, m->nr_pages * m->page_size);
	free(m->bitmap);
	kvm_vm_free(m->vm);
}

static unsigned long parse_names(const char *what, const char *arg,
				 const char * const *names, int nr, unsigned long all)
{
	char *copy = strdup(arg), *save = NULL, *name;
	unsigned long mask = 0;
	int i;

	for (name = strtok_r(copy, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
		if (!strcmp(name, "all")) {
			mask |= all;
			continue;
		}
		for (i = 0; i < nr && strcmp(name, names[i]); i++)
			;
		TEST_ASSERT(i < nr, "Unknown %s '%s', see -h", what, name);
		mask |= BIT(i);
	}
	free(copy);
	return mask;
}

static void print_names(const char * const *names, int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		printf("%s, ", names[i]);
	puts("all");
}

static void help(char *name)
{
	puts("");
	printf("usage: %s [-h] [-H harvesters] [-M log modes] [-N noises] [-b bytes] [-d ns]\n"
	       "       [-e] [-m mode] [-n] [-r seed] [-s mem type] [-t seconds] [-v vcpus]\n",
	       name);
	puts("");
	printf(" -H: number of threads that clear the log, 1 or 2 (default: 1)\n");
	printf(" -M: comma separated list of log modes (default: all):\n     ");
	print_names(log_mode_names, NR_LOG_MODES);
	printf(" -N: comma separated list of noises (default: none), all are all but %s:\n     ",
	       noise_names[NOISE_RECLAIM]);
	print_names(noise_names, NR_NOISES);
	printf(" -b: size of the dirty logged memory, e.g. 32M (default: %uM)\n",
	       DEFAULT_MEM_SIZE / SZ_1M);
	printf(" -d: nanoseconds to take for each page that is copied (default: 0)\n");
	printf(" -e: have KVM split huge pages when they are logged, arm64 only\n");
	guest_modes_help();
	printf(" -n: write from nested guests, with nested paging\n");
	printf(" -r: seed of all random choices (default: time)\n");
	backing_src_help("-s");
	printf(" -t: seconds to run per log mode and guest mode (default: %d)\n", DEFAULT_SECONDS);
	printf(" -v: number of vCPUs (default: %d)\n", DEFAULT_NR_VCPUS);
	puts("");
	exit(0);
}

static int run_log_modes(const char *cgroup, void *arg)
{
	struct test_params *p = arg;
	int i;

	p->cgroup = cgroup;
	for (i = 0; i < NR_LOG_MODES; i++) {
		if (!(p->log_modes & BIT(i)))
			continue;
		p->log_mode = i;
		pr_info("Log mode %s, seed %u, %d %svCPUs, %lu MiB of %s, %d s\n",
			log_mode_names[i], p->seed, p->nr_vcpus,
			p->nested ? "nested " : "", p->mem_size / SZ_1M,
			vm_mem_backing_src_alias(p->backing_src)->name, p->seconds);
		for_each_guest_mode(run_test, p);
	}
	return 0;
}

/* The memory is charged to a cgroup of its own, i.e. nobody else's is reclaimed. */
static int run_in_cgroup(struct test_params *p)
{
	char root[PATH_MAX], name[32], *cgroup;
	long swapped;
	int ret;

	__TEST_REQUIRE(!cg_find_controller_root(root, sizeof(root), "memory"),
		       "Cannot find memory cgroup controller");
	snprintf(name, sizeof(name), "dirty_log_mirror_test.%d", getpid());
	cgroup = cg_name(root, name);
	__TEST_REQUIRE(!cg_create(cgroup), "Cannot create %s: %s", cgroup, strerror(errno));
	ret = cg_run(cgroup, run_log_modes, p);
	/* In bytes. */
	swapped = cg_read_long(cgroup, "memory.swap.peak");
	cg_destroy(cgroup);
	free(cgroup);

	printf("swapped_kib=%ld\n", swapped > 0 ? swapped / SZ_1K : 0);
	if (!ret)
		__TEST_REQUIRE(swapped > 0, "Nothing was swapped: is there any swap?");
	return ret;
}

int main(int argc, char *argv[])
{
	struct test_params p = {
		.log_modes = GENMASK(NR_LOG_MODES - 1, 0),
		.backing_src = DEFAULT_VM_MEM_SRC,
		.mem_size = DEFAULT_MEM_SIZE,
		.nr_vcpus = DEFAULT_NR_VCPUS,
		.seconds = DEFAULT_SECONDS,
		.nr_harvesters = 1,
		.seed = time(NULL),
	};
	struct sigaction sa = { .sa_handler = kick };
	int opt;

	guest_modes_append_default();

	while ((opt = getopt(argc, argv, "b:d:ehH:m:M:nN:r:s:t:v:")) != -1) {
		switch (opt) {
		case 'b':
			p.mem_size = parse_size(optarg);
			break;
		case 'd':
			p.copy_ns = atoi_non_negative("Nanoseconds", optarg);
			break;
		case 'e':
			p.eager_split = true;
			break;
		case 'H':
			p.nr_harvesters = atoi_positive("Number of harvesters", optarg);
			TEST_ASSERT(p.nr_harvesters <= MAX_HARVESTERS,
				    "At most %d harvesters, got %d", MAX_HARVESTERS,
				    p.nr_harvesters);
			break;
		case 'm':
			guest_modes_cmdline(optarg);
			break;
		case 'M':
			p.log_modes = parse_names("log mode", optarg, log_mode_names, NR_LOG_MODES,
						  GENMASK(NR_LOG_MODES - 1, 0));
			break;
		case 'n':
			p.nested = true;
			break;
		case 'N':
			/* Reclaim needs swap, and a memory cgroup, which not every host has. */
			p.noises = parse_names("noise", optarg, noise_names, NR_NOISES,
					       GENMASK(NR_NOISES - 1, 0) & ~BIT(NOISE_RECLAIM));
			break;
		case 'r':
			p.seed = atoi_positive("Seed", optarg);
			break;
		case 's':
			p.backing_src = parse_backing_src_type(optarg);
			break;
		case 't':
			p.seconds = atoi_positive("Number of seconds", optarg);
			break;
		case 'v':
			p.nr_vcpus = atoi_positive("Number of vCPUs", optarg);
			TEST_ASSERT(p.nr_vcpus <= MAX_VCPUS,
				    "At most %d vCPUs, got %d", MAX_VCPUS, p.nr_vcpus);
			break;
		case 'h':
		default:
			help(argv[0]);
			break;
		}
	}
	TEST_ASSERT(p.mem_size && !(p.mem_size % getpagesize()),
		    "Memory must be a multiple of the page size");

	/* One CPU a vCPU, one for the noise, one for the harvester. */
	if (get_allowed_cpus(&allowed_cpus) < p.nr_vcpus + 2)
		pr_info("%d vCPUs would need %d CPUs, some are shared\n", p.nr_vcpus,
			p.nr_vcpus + 2);

	__TEST_REQUIRE(!p.nested || nested_supported(),
		       "Nested guests with nested paging not supported");
	__TEST_REQUIRE(!p.eager_split || eager_split_supported(),
		       "KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE not supported");

	sigaction(SIGUSR1, &sa, NULL);
	if (p.noises & BIT(NOISE_RECLAIM))
		return run_in_cgroup(&p);
	return run_log_modes(NULL, &p);
}
