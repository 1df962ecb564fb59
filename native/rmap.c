// SPDX-License-Identifier: GPL-2.0-only
/*
 * What harvesting the dirty log does to rmaps of 4KiB SPTEs, as it is in arch/x86/kvm/mmu/, over rmaps
 * made up here: what becomes of the SPTEs, and how many locked operations that takes. ci/native
 * compiles this with the text of the base, which holds mmu_lock, and with that of the stack.
 *
 * Text: arch/x86/kvm/mmu/spte.h /^static inline bool is_shadow_present_pte\(/ /^}/
 * Text: arch/x86/kvm/mmu/spte.h /^static inline bool spte_ad_enabled\(/ /^static inline bool is_access_track_spte\(/
 * Text: arch/x86/kvm/mmu/spte.h /^static inline bool is_large_pte\(/ /^static inline bool is_accessed_spte\(/
 * Text: arch/x86/kvm/mmu/spte.h /^static inline bool is_mmu_writable_spte\(/ /^}/
 * Text: arch/x86/kvm/mmu/spte.h /^static inline bool leaf_spte_change_needs_tlb_flush\(/ /^}/
 * Text: arch/x86/kvm/mmu/spte.c /^bool spte_needs_atomic_update\(/ /^}/
 * Text: arch/x86/kvm/mmu/mmu.c /^static bool mmu_spte_update\(/ /^}/
 * Text: arch/x86/kvm/mmu/mmu.c /^#define KVM_RMAP_MANY/ /^static unsigned long kvm_rmap_lock\(struct kvm \*kvm/
 * Text: arch/x86/kvm/mmu/mmu.c /^static void __kvm_rmap_unlock\(/ /^}/
 * Text: arch/x86/kvm/mmu/mmu.c /^static unsigned long kvm_rmap_get\(/ /^}/
 * Text: arch/x86/kvm/mmu/mmu.c /^static unsigned long kvm_rmap_lock_readonly\(/ /^}/
 * Text: arch/x86/kvm/mmu/mmu.c /^static void kvm_rmap_unlock_readonly\(/ /^}/
 * Text: arch/x86/kvm/mmu/mmu.c /^struct rmap_iterator \{/ /^static void drop_spte\(/
 * Text: arch/x86/kvm/mmu/mmu.c /^static bool spte_write_protect\(u64 \*sptep, bool pt_protect\)|^static void spte_clear_dirty\(/ /^static bool spte_clear_dirty\(u64 \*sptep\)|^\/\* As above, for the 4KiB SPTEs/
 *
 * Without an argument, prints a name, a rule, and what the rule is about, see ci/native: what SPTEs
 * become must be the "same"; of locked operations, one per SPTE, and one per list of SPTEs, is what it
 * takes without mmu_lock, i.e. "most" is that or what is counted.
 *
 * With the argument "time", prints how many nanoseconds an SPTE takes on this machine, in a program
 * that isn't slowed down by sanitizers; uncontended, in the caches:
 *   gcc -O2 -I. -DTEXT='"build/native/rmap.stack.inc"' -o rmap native/rmap.c && ./rmap time
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What the text takes from the rest of the kernel: as much of it as it uses, and no more. */
typedef uint64_t u64;
typedef uint32_t u32;
typedef u64 kvm_pfn_t;
typedef struct { long counter; } atomic_long_t;

#define BIT(n)			(1UL << (n))
#define BIT_ULL(n)		(1ULL << (n))
#define PAGE_SHIFT		12
#define PG_LEVEL_4K		1
#define PTE_LIST_EXT		14
#define PT_WRITABLE_SHIFT	1
#define PT_WRITABLE_MASK	BIT_ULL(1)
#define PT_PAGE_SIZE_MASK	BIT_ULL(7)
#define SPTE_MMU_PRESENT_MASK	BIT_ULL(11)
#define SPTE_TDP_AD_MASK	(3ULL << 52)
#define SPTE_TDP_AD_ENABLED	(0ULL << 52)
#define SPTE_TDP_AD_DISABLED	(1ULL << 52)
#define SPTE_BASE_ADDR_MASK	(((1ULL << 52) - 1) & ~0xfffULL)
#define shadow_dirty_mask	BIT_ULL(6)
#define shadow_accessed_mask	BIT_ULL(5)
#define shadow_mmu_writable_mask	BIT_ULL(58)

#define IS_ENABLED(x)			0
#define KVM_MMU_WARN_ON(x)		((void)(x))
#define WARN_ON_ONCE(x)			({ bool _x = (x); if (_x) abort(); _x; })
#define lockdep_assert_preemption_disabled()	do { } while (0)
#define preempt_disable()		do { } while (0)
#define preempt_enable()		do { } while (0)
#define rcu_read_lock()			do { } while (0)
#define rcu_read_unlock()		do { } while (0)
#define read_lock(l)			do { } while (0)
#define read_unlock(l)			do { } while (0)
#define cpu_relax()			do { } while (0)
#define kvm_begin_rmap_readonly(k)	((void)(k))
#define kvm_end_rmap_readonly(k)	((void)(k))
#define check_spte_writable_invariants(x)	do { } while (0)
#define __always_unused			__attribute__((unused))
#define READ_ONCE(x)			(*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, v)		(*(volatile typeof(x) *)&(x) = (v))

struct kvm { int mmu_lock; };
struct kvm_rmap_head { atomic_long_t val; };
struct pte_list_desc {
	struct pte_list_desc *more;
	u32 spte_count;
	u32 tail_count;
	u64 *sptes[PTE_LIST_EXT];
};

static unsigned long nr_locked;
#define LOCKED(op)	({ nr_locked++; op; })

#define atomic_long_read(p)		READ_ONCE((p)->counter)
#define atomic_long_set_release(p, v)	__atomic_store_n(&(p)->counter, v, __ATOMIC_RELEASE)
#define atomic_long_try_cmpxchg_acquire(p, old, new) \
	LOCKED(__atomic_compare_exchange_n(&(p)->counter, (long *)(old), new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
#define try_cmpxchg64(p, old, new) \
	LOCKED(__atomic_compare_exchange_n(p, old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
#define xchg(p, v)			LOCKED(__atomic_exchange_n(p, v, __ATOMIC_SEQ_CST))
#define clear_bit(nr, p)		LOCKED(__atomic_and_fetch(p, ~BIT(nr), __ATOMIC_SEQ_CST))
#define __ffs64(x)			__builtin_ctzll(x)

static inline bool is_writable_pte(unsigned long pte)
{
	return pte & PT_WRITABLE_MASK;
}

static inline void mmu_spte_set(u64 *sptep, u64 spte)
{
	WRITE_ONCE(*sptep, spte);
}

static inline void __update_clear_spte_fast(u64 *sptep, u64 spte)
{
	WRITE_ONCE(*sptep, spte);
}

static inline u64 __update_clear_spte_slow(u64 *sptep, u64 spte)
{
	return xchg(sptep, spte);
}

static inline u64 mmu_spte_get_lockless(u64 *sptep)
{
	return READ_ONCE(*sptep);
}

#pragma GCC diagnostic ignored "-Wunused-function"
bool spte_needs_atomic_update(u64 spte);
#include TEXT

static struct kvm kvm;

static void harvest(struct kvm_rmap_head *rmap)
{
#ifdef TEXT_OF_BASE
	rmap_write_protect(rmap, false);
#else
	kvm_rmap_clear_dirty(&kvm, rmap, PG_LEVEL_4K, true);
#endif
}

#define NR_RMAPS	512
#define WRITABLE	(SPTE_MMU_PRESENT_MASK | BIT_ULL(0) | PT_WRITABLE_MASK | shadow_accessed_mask | \
			 shadow_dirty_mask | shadow_mmu_writable_mask)

static struct kvm_rmap_head rmaps[NR_RMAPS];
static struct pte_list_desc descs[NR_RMAPS];
static u64 sptes[3][NR_RMAPS];

/* @nr SPTEs in each rmap. */
static void make_rmaps(int nr, u64 value)
{
	int i, j;

	for (i = 0; i < NR_RMAPS; i++) {
		for (j = 0; j < 3; j++)
			sptes[j][i] = (value | (u64)i << PAGE_SHIFT);
		memset(&descs[i], 0, sizeof(descs[i]));
		for (j = 0; j < nr; j++)
			descs[i].sptes[j] = &sptes[j][i];
		descs[i].spte_count = nr;
		rmaps[i].val.counter = !nr ? 0 : nr == 1 ? (long)&sptes[0][i] : (long)&descs[i] | KVM_RMAP_MANY;
	}
}

static void scenario(const char *name, int nr, u64 value)
{
	unsigned long rmap_was, allowed;
	u64 sum = 0;
	int i, j;

	make_rmaps(nr, value);
	nr_locked = 0;
	for (i = 0; i < NR_RMAPS; i++) {
		rmap_was = rmaps[i].val.counter;
		harvest(&rmaps[i]);
		if ((unsigned long)rmaps[i].val.counter != rmap_was)
			abort();
		for (j = 0; j < nr; j++)
			sum = ((sum << 7 | sum >> 57) ^ sptes[j][i]) * 0x9e3779b97f4a7c15ull;
	}
	printf("%s,sptes same %llu\n", name, (unsigned long long)sum);
	/* One per SPTE, and one for the list that they are in if there are more. */
	allowed = (nr + (nr > 1)) * NR_RMAPS;
	printf("%s,locked most %lu\n", name, nr_locked > allowed ? nr_locked : allowed);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

/* The shortest of many, as the machine may do something else. */
static void measure(const char *name, int nr, u64 value)
{
	double start, ns, least = 1e9;
	int pass, i;

	for (pass = 0; pass < 2000; pass++) {
		make_rmaps(nr, value);
		start = now();
		for (i = 0; i < NR_RMAPS; i++)
			harvest(&rmaps[i]);
		ns = (now() - start) / NR_RMAPS;
		if (ns < least)
			least = ns;
	}
	printf("%s: %.1f ns per rmap\n", name, least);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int nr;
		u64 value;
	} s[] = {
		{ "none", 0, 0 },
		{ "writable", 1, WRITABLE },
		{ "clean", 1, WRITABLE & ~shadow_dirty_mask },
		{ "read-only", 1, WRITABLE & ~PT_WRITABLE_MASK },
		{ "no-ad-bits", 1, (WRITABLE & ~shadow_dirty_mask) | SPTE_TDP_AD_DISABLED },
		{ "three", 3, WRITABLE },
	};
	unsigned int i;

	for (i = 0; i < sizeof(s) / sizeof(s[0]); i++) {
		if (argc > 1 && !strcmp(argv[1], "time"))
			measure(s[i].name, s[i].nr, s[i].value);
		else
			scenario(s[i].name, s[i].nr, s[i].value);
	}
	return 0;
}
