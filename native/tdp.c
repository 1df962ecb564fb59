// SPDX-License-Identifier: GPL-2.0-only
/*
 * What harvesting the dirty log does to 4KiB SPTEs of the TDP MMU, as it is in arch/x86/kvm/mmu/, over
 * page tables made up here: what becomes of the SPTEs, how many are read, and how many locked operations
 * that takes. ci/native compiles this with the text of the base, which holds mmu_lock, and with that of
 * the stack.
 *
 * Text: arch/x86/kvm/mmu/mmu_internal.h /^#define __PT_LEVEL_SHIFT\(/ /^#define __PT_LVL_ADDR_MASK\(/
 * Text: arch/x86/kvm/mmu/mmu_internal.h /^#define __PT_ENT_PER_PAGE\(/ /^$/
 * Text: arch/x86/kvm/mmu/mmu_internal.h /^static inline int kvm_mmu_role_as_id\(/ /^static inline void/
 * Text: arch/x86/kvm/mmu/mmu_internal.h /^static inline gfn_t kvm_gfn_root_bits\(/ /^}/
 * Text: arch/x86/kvm/mmu/mmu_internal.h /^static inline bool kvm_mmu_page_ad_need_write_protect\(/ /^}/
 * Text: arch/x86/kvm/mmu/mmu_internal.h /^static inline gfn_t gfn_round_for_level\(/ /^}/
 * Text: arch/x86/kvm/mmu/spte.h /^#define SPTE_LEVEL_BITS/ /^$/
 * Text: arch/x86/kvm/mmu/spte.h /^#define FROZEN_SPTE/ /^$/
 * Text: arch/x86/kvm/mmu/spte.h /^static inline bool is_frozen_spte\(/ /^}/
 * Text: arch/x86/kvm/mmu/spte.h /^static inline bool is_shadow_present_pte\(/ /^static inline bool sp_ad_/
 * Text: arch/x86/kvm/mmu/spte.h /^static inline bool spte_ad_enabled/ /^static inline bool is_access/
 * Text: arch/x86/kvm/mmu/spte.h /^static inline bool is_large_pte\(/ /^static inline bool is_accessed/
 * Text: arch/x86/kvm/mmu/spte.h /^static inline bool is_writable_pte\(/ /^}/
 * Text: arch/x86/kvm/mmu/spte.h /^static inline bool is_mmu_writable_spte\(/ /^}/
 * Text: arch/x86/kvm/mmu/spte.c /^bool spte_needs_atomic_update\(/ /^}/
 * Text: arch/x86/kvm/mmu/tdp_iter.h /^static inline u64 kvm_tdp_mmu_read_spte\(/ /^#endif/
 * Text: arch/x86/kvm/mmu/tdp_iter.c /^static void tdp_iter_refresh_sptep\(/ /^void tdp_iter_next\(/
 * Text: arch/x86/kvm/mmu/tdp_iter.c /^void tdp_iter_next\(/ /^}/
 * Text: arch/x86/kvm/mmu/tdp_mmu.c /^static inline .*__tdp_mmu_set_spte_atomic\(/ /^}/
 * Text: arch/x86/kvm/mmu/tdp_mmu.c /^#define tdp_root_for_each_pte\(/ /^static inline bool/
 * Text: arch/x86/kvm/mmu/tdp_mmu.c /^static bool tdp_mmu_need_write_protect\(/ /^}/
 * Text: arch/x86/kvm/mmu/tdp_mmu.c /^void kvm_tdp_mmu_clear_dirty_slot/ /^void kvm_tdp_mmu_clear_dirty_pt/
 *
 * Without an argument, prints a name, a rule, and what the rule is about, see ci/native: what SPTEs
 * become, and what is traced and warned of, must be the "same"; SPTEs read are at "most" the base's; of
 * locked operations, one per SPTE that has something to clear is what it takes without mmu_lock, i.e.
 * "most" is that or what is counted. If others change an SPTE meanwhile it is two, and the SPTE must
 * become what it becomes on the base, where mmu_lock, or luck, has them come afterwards.
 *
 * With the argument "time", prints how many nanoseconds a harvested SPTE takes on this machine, and how
 * many of these a CMPXCHG takes that does nothing but clear the same bit of the same SPTEs, in a program
 * that neither counts nor is slowed down by sanitizers; uncontended, in the caches:
 *   gcc -O2 -I. -DTEXT='"build/native/tdp.stack.inc"' -o tdp native/tdp.c && ./tdp time
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef __SANITIZE_ADDRESS__
#define COUNTS		true
#else
#define COUNTS		false
#endif

/* What the text takes from the rest of the kernel: as much of it as it uses, and no more. */
typedef uint64_t u64;
typedef u64 gfn_t;
typedef u64 kvm_pfn_t;
typedef u64 *tdp_ptep_t;
typedef struct { u64 counter; } atomic64_t;

#define BIT_ULL(n)		(1ULL << (n))
#define BITS_PER_LONG		64
#define PAGE_SHIFT		12
#define PG_LEVEL_4K		1
#define PT64_ROOT_MAX_LEVEL	5
#define PT_PRESENT_MASK		BIT_ULL(0)
#define PT_WRITABLE_MASK	BIT_ULL(1)
#define PT_PAGE_SIZE_MASK	BIT_ULL(7)
#define SPTE_MMU_PRESENT_MASK	BIT_ULL(11)
#define SPTE_TDP_AD_MASK	(3ULL << 60)
#define SPTE_TDP_AD_ENABLED	(0ULL << 60)
#define SPTE_TDP_AD_DISABLED	(1ULL << 60)
#define SPTE_TDP_AD_WRPROT_ONLY	(2ULL << 60)
#define SPTE_BASE_ADDR_MASK	(((1ULL << 52) - 1) & ~0xfffULL)
#define SHADOW_NONPRESENT_VALUE	BIT_ULL(63)
#define VMX_EPT_SUPPRESS_VE_BIT	BIT_ULL(63)
#define VMX_EPT_RWX_MASK	7ULL
#define VMX_EPT_MISCONFIG_WX_VALUE	6ULL
#define KVM_PAGES_PER_HPAGE(level)	(1UL << ((level) - 1) * 9)

/* Variables, as they are there. */
u64 shadow_present_mask = PT_PRESENT_MASK;
u64 shadow_accessed_mask = BIT_ULL(5);
u64 shadow_dirty_mask = BIT_ULL(6);
u64 shadow_mmu_writable_mask = BIT_ULL(58);
bool kvm_ad_enabled = true;

union kvm_mmu_page_role {
	unsigned int word;
	struct {
		unsigned int level:4;
		unsigned int guest_mode:1;
		unsigned int is_mirror:1;
		unsigned int smm:8;
	};
};

struct kvm_mmu_page {
	union kvm_mmu_page_role role;
	u64 *spt;
};

struct kvm {
	int mmu_lock;
	struct {
		int cpu_dirty_log_size;
		gfn_t gfn_direct_bits;
	} arch;
};

struct kvm_memory_slot {
	gfn_t base_gfn;
	unsigned long npages;
	int as_id;
};

static unsigned long nr_read, nr_locked, nr_warned;
static u64 traces;

#define likely(x)			__builtin_expect(!!(x), 1)
#define unlikely(x)			__builtin_expect(!!(x), 0)
#define __must_check			__attribute__((warn_unused_result))
#define __va(x)				((void *)(uintptr_t)(x))
#define __ffs(x)			((unsigned long)__builtin_ctzl(x))
#define lockdep_assert_held_read(l)	do { } while (0)
#define lockdep_assert_held_write(l)	do { } while (0)
#define rcu_read_lock()			do { } while (0)
#define rcu_read_unlock()		do { } while (0)
#define ACCESS_ONCE(x)			(*(volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, v)		(ACCESS_ONCE(x) = (v))
/* The pointer is read once, too, i.e. from memory. */
#define rcu_dereference(p)		ACCESS_ONCE(p)

#if COUNTS
#define READ_ONCE(x)			({ nr_read++; ACCESS_ONCE(x); })
#define WARN_ON_ONCE(x)			({ bool _x = (x); nr_warned += _x; _x; })
#define KVM_MMU_WARN_ON(x)		WARN_ON_ONCE(x)
#else
#define READ_ONCE(x)			ACCESS_ONCE(x)
#define WARN_ON_ONCE(x)			({ bool _x = (x); if (unlikely(_x)) abort(); _x; })
#define KVM_MMU_WARN_ON(x)		((void)(sizeof((long)(x))))
#endif

/* Only whole memslots are harvested with these. */
#define for_each_valid_tdp_mmu_root_yield_safe(kvm, root, id)	for (root = NULL; root && (id); )
#define clear_dirty_gfn_range(kvm, root, start, end)		((void)(start), (void)(end))

static void change_meanwhile(u64 *sptep);

static inline bool try_cmpxchg64(u64 *p, u64 *old, u64 new)
{
	if (COUNTS) {
		nr_locked++;
		change_meanwhile(p);
	}
	return likely(__atomic_compare_exchange_n(p, old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
}

static inline u64 xchg(u64 *p, u64 new)
{
	nr_locked += COUNTS;
	return __atomic_exchange_n(p, new, __ATOMIC_SEQ_CST);
}

/* Of the value that was there, hence a CMPXCHG in a loop, on x86. */
static inline u64 atomic64_fetch_and(u64 mask, atomic64_t *v)
{
	nr_locked += COUNTS;
	return __atomic_fetch_and(&v->counter, mask, __ATOMIC_SEQ_CST);
}

static inline u64 mix(u64 sum, u64 value)
{
	return ((sum << 7 | sum >> 57) ^ value) * 0x9e3779b97f4a7c15ull;
}

static __attribute__((cold, noinline)) void traced(int as_id, gfn_t gfn, int level, u64 old, u64 new)
{
	traces = mix(mix(mix(mix(mix(traces, as_id), gfn), level), old), new);
}

/* As a static key that is off, but for its NOP: what is traced is computed for who never comes. */
static inline bool tracing(void)
{
	if (COUNTS)
		return true;
	asm goto("" : : : : on);
	return false;
on:
	return true;
}

#define trace_kvm_tdp_mmu_spte_changed(...)	do { if (tracing()) traced(__VA_ARGS__); } while (0)

static inline gfn_t kvm_gfn_direct_bits(const struct kvm *kvm)
{
	return kvm->arch.gfn_direct_bits;
}

/* What is in a file of its own there isn't compiled together with its callers here. */
struct tdp_iter;
#define OTHER_FILE	__attribute__((noipa))
OTHER_FILE bool spte_needs_atomic_update(u64 spte);
OTHER_FILE void tdp_iter_start(struct tdp_iter *iter, struct kvm_mmu_page *root, int min_level,
			       gfn_t next_last_level_gfn, gfn_t gfn_bits);
OTHER_FILE void tdp_iter_next(struct tdp_iter *iter);

#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include TEXT

#define NR_PTS		4
#define NR_SPTES	(NR_PTS * 512)
#define NR_WORDS	(NR_SPTES / BITS_PER_LONG)
/* Page tables of two parents: the last two of one, and the first two of the other. */
#define FIRST_GFN	(1ULL << 27 | 3ULL << 18 | 510ULL << 9)

#define NON_LEAF	(SPTE_MMU_PRESENT_MASK | PT_PRESENT_MASK | PT_WRITABLE_MASK | BIT_ULL(5))
#define WRITABLE	(SPTE_MMU_PRESENT_MASK | PT_PRESENT_MASK | PT_WRITABLE_MASK | BIT_ULL(5) | \
			 BIT_ULL(6) | BIT_ULL(58))
#define NO_AD_BITS	((WRITABLE & ~(BIT_ULL(5) | BIT_ULL(6))) | SPTE_TDP_AD_DISABLED)
/* These aren't W and D here. */
#define MMIO		(PT_PRESENT_MASK | PT_WRITABLE_MASK | BIT_ULL(6))

static const struct scenario {
	const char *name;
	u64 spte;
	u64 clear, set;		/* What others do to it meanwhile. */
	int offset;		/* Of the memslot's first gfn. */
	bool mixed;		/* SPTEs of the first NR_MIXED scenarios. */
	bool huge;		/* Every other page table is a huge page. */
	bool no_ad, nested;
} scenarios[] = {
	/* What "mixed" is made of; the first three are those that "time" measures. */
	{ "writable", .spte = WRITABLE },
	{ "clean", .spte = WRITABLE & ~BIT_ULL(6) },
	{ "read-only", .spte = WRITABLE & ~PT_WRITABLE_MASK },
	{ "not-present", .spte = SHADOW_NONPRESENT_VALUE },
	{ "mmio", .spte = MMIO },
	{ "frozen", .spte = FROZEN_SPTE },
	{ "mixed", .mixed = true },
	{ "unaligned", .spte = WRITABLE, .offset = 32 },
	{ "huge", .spte = WRITABLE, .huge = true },
	{ "no-ad-bits", .spte = NO_AD_BITS, .no_ad = true },
	{ "nested", .spte = WRITABLE | SPTE_TDP_AD_WRPROT_ONLY, .nested = true },
	{ "aged-meanwhile", .spte = WRITABLE, .clear = BIT_ULL(5) },
	{ "dirtied-meanwhile", .spte = WRITABLE & ~BIT_ULL(6), .set = BIT_ULL(6) },
	{ "harvested-meanwhile", .spte = WRITABLE, .clear = PT_WRITABLE_MASK | BIT_ULL(6) },
	{ "frozen-meanwhile", .spte = WRITABLE, .clear = ~0ULL, .set = FROZEN_SPTE },
	{ "mmio-meanwhile", .spte = WRITABLE, .clear = ~0ULL, .set = MMIO },
};
#define NR_MIXED	6
static const int percents[] = { 100, 50, 10, 1 };

static u64 root[512] __attribute__((aligned(4096)));
static u64 level3[512] __attribute__((aligned(4096)));
static u64 level2[2][512] __attribute__((aligned(4096)));
static u64 sptes[NR_SPTES] __attribute__((aligned(4096)));

/* Page tables aren't next to each other, i.e. none can be run into from the one before. */
static u64 *spte_of(int i)
{
	return &sptes[(NR_PTS - 1 - i / 512) * 512 + i % 512];
}

static struct kvm kvm;
static struct kvm_mmu_page root_sp = { .role.level = 4, .spt = root };

static u64 masks[NR_WORDS];
static const struct scenario *setting;
static bool changed[NR_SPTES];

/* Whatever happens to SPTEs meanwhile happens to each of them once. */
static void change_meanwhile(u64 *sptep)
{
	if ((setting->clear | setting->set) && !changed[sptep - sptes]) {
		changed[sptep - sptes] = true;
		*sptep = (*sptep & ~setting->clear) | setting->set;
	}
}

static void make_page_tables(const struct scenario *s)
{
	u64 spte;
	int i;

	root[1] = (uintptr_t)level3 | NON_LEAF;
	level3[3] = (uintptr_t)level2[0] | NON_LEAF;
	level3[4] = (uintptr_t)level2[1] | NON_LEAF;
	for (i = 0; i < NR_PTS; i++) {
		spte = (uintptr_t)spte_of(i * 512) | NON_LEAF;
		if (s->huge && i % 2)
			spte = s->spte | PT_PAGE_SIZE_MASK | (u64)i << (PAGE_SHIFT + 9);
		level2[i / 2][(510 + i) % 512] = spte;
	}
	for (i = 0; i < NR_SPTES; i++) {
		spte = s->mixed ? scenarios[i % NR_MIXED].spte : s->spte;
		*spte_of(i) = spte & SPTE_MMU_PRESENT_MASK ? spte | (u64)i << PAGE_SHIFT : spte;
	}
	memset(changed, 0, sizeof(changed));
	root_sp.role.guest_mode = s->nested;
	kvm.arch.cpu_dirty_log_size = s->nested ? 512 : 0;
	kvm_ad_enabled = !s->no_ad;
	setting = s;
}

/* @percent of all bits, the same ones for base and stack.  Returns how many that are. */
static int make_masks(int percent, int offset)
{
	const int n = NR_SPTES - (offset ? BITS_PER_LONG : 0), nr = n * percent / 100;
	static u64 random = 1;
	int i, left = nr;

	memset(masks, 0, sizeof(masks));
	for (i = 0; i < n; i++) {
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		if (random % (n - i) < (u64)left) {
			masks[i / BITS_PER_LONG] |= BIT_ULL(i % BITS_PER_LONG);
			left--;
		}
	}
	return nr;
}

static OTHER_FILE void harvest(gfn_t gfn, bool wrprot)
{
	int i;

	for (i = 0; i < NR_WORDS; i++) {
		if (masks[i])
			clear_dirty_pt_masked(&kvm, &root_sp, gfn + i * BITS_PER_LONG, masks[i], wrprot);
	}
}

static bool in_masks(int i)
{
	return i >= 0 && masks[i / BITS_PER_LONG] & BIT_ULL(i % BITS_PER_LONG);
}

/* @spte but for where page tables happen to be. */
static u64 bits(u64 spte)
{
	return is_large_pte(spte) ? spte : spte & ~SPTE_BASE_ADDR_MASK;
}

static void scenario(const struct scenario *s, bool wrprot, int percent)
{
	const u64 dbit = wrprot || s->no_ad || s->nested ? PT_WRITABLE_MASK : shadow_dirty_mask;
	unsigned long allowed = 0;
	char name[64];
	u64 sum = 0;
	int i;

	snprintf(name, sizeof(name), "%s,%s,%d%%", s->name, wrprot ? "wrprot" : "dirty", percent);
	make_masks(percent, s->offset);
	make_page_tables(s);
	for (i = 0; i < NR_SPTES; i++) {
		if (in_masks(i - s->offset) && !(s->huge && i / 512 % 2))
			allowed += is_shadow_present_pte(*spte_of(i)) && (*spte_of(i) & dbit);
	}
	if (s->clear | s->set)
		allowed *= 2;

	nr_read = nr_locked = traces = 0;
	harvest(FIRST_GFN + s->offset, wrprot);

	for (i = 0; i < NR_SPTES; i++) {
		if (in_masks(i - s->offset))
			change_meanwhile(spte_of(i));
	}
	for (i = 0; i < NR_SPTES; i++)
		sum = mix(sum, *spte_of(i));
	for (i = 0; i < 512; i++) {
		sum = mix(mix(sum, bits(root[i])), bits(level3[i]));
		sum = mix(mix(sum, bits(level2[0][i])), bits(level2[1][i]));
	}
	printf("%s,sptes same %llu\n", name, (unsigned long long)sum);
	/* Who comes first can be told from what is traced. */
	if (!(s->clear | s->set))
		printf("%s,traced same %llu\n", name, (unsigned long long)traces);
	printf("%s,read most %lu\n", name, nr_read);
	printf("%s,locked most %lu\n", name, nr_locked > allowed ? nr_locked : allowed);
}

#define NR_PASSES	2000
#define NR_PERCENTS	((int)(sizeof(percents) / sizeof(percents[0])))
#define NR_TIMED	3

static u64 *harvested[NR_SPTES];

static OTHER_FILE void cmpxchg_only(int nr)
{
	int i;

	for (i = 0; i < nr; i++) {
		u64 old = ACCESS_ONCE(*harvested[i]);

		try_cmpxchg64(harvested[i], &old, old & ~PT_WRITABLE_MASK);
	}
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

/* In ns, per SPTE; @s is NULL for the CMPXCHG. What reading the clock takes is taken off. */
static double measure(const struct scenario *s, int percent)
{
	const int nr = make_masks(percent, 0);
	double start, end;
	int i, j = 0;

	make_page_tables(s ? s : &scenarios[0]);
	for (i = 0; i < NR_SPTES; i++) {
		if (in_masks(i))
			harvested[j++] = spte_of(i);
	}
	start = now();
	if (s)
		harvest(FIRST_GFN, true);
	else
		cmpxchg_only(nr);
	end = now();
	return (end - start - (now() - end)) / nr;
}

static int compare(const void *a, const void *b)
{
	return (*(double *)a > *(double *)b) - (*(double *)a < *(double *)b);
}

/*
 * The medians of many, in turn, as the machine may do something else, and as branches are predicted for
 * some masks and not for others: each time has its own.
 */
static void measure_all(void)
{
	static double times[1 + NR_TIMED][sizeof(percents) / sizeof(percents[0])][NR_PASSES];
	const char *name;
	int pass, i, j;

	for (pass = 0; pass < NR_PASSES; pass++) {
		for (i = 0; i <= NR_TIMED; i++) {
			for (j = 0; j < NR_PERCENTS; j++)
				times[i][j][pass] = measure(i ? &scenarios[i - 1] : NULL, percents[j]);
		}
	}
	for (i = 0; i <= NR_TIMED; i++) {
		name = i ? scenarios[i - 1].name : "CMPXCHG";
		for (j = 0; j < NR_PERCENTS; j++) {
			qsort(times[i][j], NR_PASSES, sizeof(double), compare);
			printf("%s,%d%%: %.1f ns per SPTE\n", name, percents[j], times[i][j][NR_PASSES / 2]);
		}
	}
}

int main(int argc, char **argv)
{
	const bool time = argc > 1 && !strcmp(argv[1], "time");
	unsigned int i;
	int j;

	if (time == COUNTS) {
		fprintf(stderr, "%s: either sanitizers or \"time\", see its head\n", argv[0]);
		return 2;
	}
	if (time) {
		measure_all();
		return 0;
	}
	for (i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
		for (j = 0; j < NR_PERCENTS; j++) {
			scenario(&scenarios[i], true, percents[j]);
			scenario(&scenarios[i], false, percents[j]);
		}
	}
	printf("warned same %lu\n", nr_warned);
	return 0;
}
