// SPDX-License-Identifier: GPL-2.0-only
/*
 * MGLRU's scan of PTEs, as it is in mm/vmscan.c, over page tables made up here: what it promotes,
 * and what that costs. ci/native compiles this with the text of the base and with that of the stack.
 *
 * Text: mm/vmscan.c /^static int folio_update_gen\(/ /^}/
 * Text: mm/vmscan.c /^static void update_batch_size\(/ /^}/
 * Text: mm/vmscan.c /^static unsigned long get_pte_pfn\(/ /^static void walk_pmd_range_locked\(/
 * Text: mm/vmscan.c /^bool lru_gen_look_around\(/ /^}/
 *
 * Prints, for each page table, its name, a rule, and what the rule is about: "same" (what comes out
 * must be the base's), "most" (a number that the base's must not be exceeded by), "less" (a number
 * that must be smaller than the base's).
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the text takes from the rest of the kernel: as much of it as it uses, and no more. */
#define PAGE_SHIFT	12
#define PAGE_SIZE	(1UL << PAGE_SHIFT)
#define PTRS_PER_PTE	512
#define PMD_SIZE	(PTRS_PER_PTE * PAGE_SIZE)
#define PMD_MASK	(~(PMD_SIZE - 1))
#define BITS_PER_LONG	64
#define BIT(n)		(1UL << (n))
#define GENMASK(h, l)	((~0UL >> (63 - (h))) & (~0UL << (l)))
#define MIN_LRU_BATCH	BITS_PER_LONG
#define BUILD_BUG_ON(cond)	_Static_assert(!(cond), #cond)
#define MAX_NR_GENS	4
#define MAX_NR_ZONES	4
#define PG_referenced	0
#define PG_workingset	1
#define LRU_REFS_PGOFF	2
#define LRU_REFS_MASK	(3UL << LRU_REFS_PGOFF)
#define LRU_REFS_FLAGS	(LRU_REFS_MASK | BIT(PG_referenced))
#define LRU_GEN_PGOFF	4
#define LRU_GEN_MASK	(7UL << LRU_GEN_PGOFF)
#define VM_SPECIAL	1
#define FPB_MERGE_YOUNG_DIRTY	1

#define unlikely(x)	(x)
#define min(a, b)	({ __auto_type _a = (a); __auto_type _b = (b); _a < _b ? _a : _b; })
#define max(a, b)	({ __auto_type _a = (a); __auto_type _b = (b); _a > _b ? _a : _b; })
#define clamp_t(t, v, l, h)	({ t _v = (v); _v < (l) ? (l) : _v > (h) ? (h) : _v; })
#define READ_ONCE(x)	(*(const volatile typeof(x) *)&(x))
#define try_cmpxchg(p, old, new) \
	__atomic_compare_exchange_n(p, old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
#define set_mask_bits(p, mask, bits)	(*(p) = (*(p) & ~(mask)) | (bits))
#define must_not(x) \
	({ bool _x = (x); if (_x) { fprintf(stderr, "mglru: %s\n", #x); exit(1); } _x; })
#define WARN_ON_ONCE			must_not
#define VM_WARN_ON_ONCE			must_not
#define VM_WARN_ON_ONCE_FOLIO(x, f)	must_not(x)
#define lockdep_assert_held(lock)	((void)(lock))

typedef struct { unsigned long pfn; bool present, young, dirty; } pte_t;
typedef struct { int unused; } pmd_t;
typedef struct { int unused; } spinlock_t;
typedef struct { int unused; } vma_flags_t;

struct mem_cgroup { int unused; };
struct pglist_data { int node_id; unsigned long node_start_pfn, end_pfn; };
struct lruvec { struct { unsigned long max_seq; } lrugen; };
struct folio {
	struct { unsigned long f; } flags;
	unsigned long pfn;
	unsigned int nr;
	int nid;
	bool dirty;
	struct mem_cgroup *memcg;
};
struct mm_struct { bool notifiers; };
struct vm_area_struct {
	struct mm_struct *vm_mm;
	unsigned long vm_start, vm_end, vm_flags;
	vma_flags_t flags;
};
enum { MM_LEAF_TOTAL, MM_LEAF_YOUNG, NR_MM_STATS };
struct lru_gen_mm_walk {
	struct lruvec *lruvec;
	int nr_pages[MAX_NR_GENS][2][MAX_NR_ZONES];
	int mm_stats[NR_MM_STATS];
	int batched;
};
struct mm_walk { struct mm_struct *mm; struct vm_area_struct *vma; void *private; };
struct lru_gen_mm_state { int unused; };
struct page_vma_mapped_walk {
	unsigned long pfn, address;
	struct vm_area_struct *vma;
	pmd_t *pmd;
	pte_t *pte;
	spinlock_t *ptl;
};
struct reclaim_state { struct lru_gen_mm_walk *mm_walk; };
static struct { struct reclaim_state *reclaim_state; } task, *current = &task;

#define NR_PFNS		2048
#define FIRST_PFN	0x10000
#define ZERO_PFN	(FIRST_PFN - 1)
#define TABLE		(64 * PMD_SIZE)

static pte_t table[PTRS_PER_PTE];
static bool secondary_young[PTRS_PER_PTE];
/* How often the secondary MMU was asked about the page. */
static unsigned char asked[PTRS_PER_PTE];
static struct folio folios[NR_PFNS], *folio_of[NR_PFNS];
static bool page_read[NR_PFNS];
static struct mem_cgroup memcg, other_memcg;
static struct pglist_data node = { .node_start_pfn = FIRST_PFN, .end_pfn = FIRST_PFN + NR_PFNS };
static struct lruvec lruvec = { .lrugen.max_seq = 3 };
static struct lru_gen_mm_state mm_state;
static struct mm_struct mm;
static struct vm_area_struct vmas[3];
static int nr_ptep_get, nr_pfn_valid, nr_lookups, nr_calls, nr_bloom, nr_updates;

static unsigned long pte_pfn(pte_t pte) { return pte.pfn; }
static bool pte_present(pte_t pte) { return pte.present; }
static bool pte_young(pte_t pte) { return pte.young; }
static bool pte_dirty(pte_t pte) { return pte.dirty; }
static bool pte_special(pte_t pte) { return pte.present && pte.pfn == ZERO_PFN; }
static unsigned long pte_index(unsigned long addr) { return (addr >> PAGE_SHIFT) % PTRS_PER_PTE; }
static bool is_zero_pfn(unsigned long pfn) { return pfn == ZERO_PFN; }
static pte_t ptep_get(pte_t *pte) { nr_ptep_get++; return *pte; }
static bool pfn_valid(unsigned long pfn) { nr_pfn_valid++; return pfn >= FIRST_PFN; }
static struct pglist_data *folio_pgdat(struct folio *f) { (void)f; return &node; }
static unsigned long pgdat_end_pfn(struct pglist_data *pgdat) { return pgdat->end_pfn; }
static bool mm_has_notifiers(struct mm_struct *m) { return m->notifiers; }
static int cache_line_size(void) { return 64; }

static unsigned long pmd_pfn(pmd_t pmd) { (void)pmd; return ZERO_PFN; }
static bool pmd_present(pmd_t pmd) { (void)pmd; return false; }
static bool pmd_young(pmd_t pmd) { (void)pmd; return false; }
static bool is_huge_zero_pmd(pmd_t pmd) { (void)pmd; return false; }
static bool pmd_same(pmd_t a, pmd_t b) { (void)a; (void)b; return true; }
static pmd_t pmdp_get_lockless(pmd_t *pmd) { return *pmd; }

static bool spin_trylock(spinlock_t *ptl) { (void)ptl; return true; }
static bool spin_is_contended(spinlock_t *ptl) { (void)ptl; return false; }
static void pte_unmap(pte_t *pte) { (void)pte; }
static void pte_unmap_unlock(pte_t *pte, spinlock_t *ptl) { (void)pte; (void)ptl; }
static void lazy_mmu_mode_enable(void) { }
static void lazy_mmu_mode_disable(void) { }
static void rcu_read_lock(void) { }
static void rcu_read_unlock(void) { }

static pte_t *pte_offset_map_rw_nolock(struct mm_struct *m, pmd_t *pmd, unsigned long addr,
				       pmd_t *pmdval, spinlock_t **ptl)
{
	static spinlock_t lock;

	(void)m;
	(void)addr;
	*pmdval = *pmd;
	*ptl = &lock;
	return table;
}

static struct folio *pfn_folio(unsigned long pfn)
{
	nr_lookups++;
	page_read[pfn - FIRST_PFN] = true;
	return folio_of[pfn - FIRST_PFN];
}

static bool folio_test_large(struct folio *f) { return f->nr > 1; }
static bool folio_test_referenced(struct folio *f) { return f->flags.f & BIT(PG_referenced); }
static bool folio_test_workingset(struct folio *f) { return f->flags.f & BIT(PG_workingset); }
static bool folio_test_lru(struct folio *f) { (void)f; return false; }
static bool folio_test_dirty(struct folio *f) { return f->dirty; }
static bool folio_test_anon(struct folio *f) { return f->pfn & 1; }
static bool folio_test_swapbacked(struct folio *f) { (void)f; return true; }
static bool folio_test_swapcache(struct folio *f) { return f->pfn & 2; }
static void folio_mark_dirty(struct folio *f) { f->dirty = true; }
static bool folio_is_file_lru(struct folio *f) { return !folio_test_anon(f); }
static int folio_zonenum(struct folio *f) { (void)f; return 0; }
static long folio_nr_pages(struct folio *f) { return f->nr; }
static int folio_nid(struct folio *f) { return f->nid; }
static struct mem_cgroup *folio_memcg(struct folio *f) { return f->memcg; }
static struct mem_cgroup *get_mem_cgroup_from_folio(struct folio *f) { return f->memcg; }
static void mem_cgroup_put(struct mem_cgroup *m) { (void)m; }
static int folio_lru_gen(struct folio *f) { return (int)((f->flags.f & LRU_GEN_MASK) >> LRU_GEN_PGOFF) - 1; }
static bool lru_gen_set_refs(struct folio *f, vma_flags_t *flags) { (void)flags; f->flags.f ^= BIT(40); nr_updates++; return f->flags.f & BIT(40); }
static void folio_activate(struct folio *f) { f->flags.f ^= BIT(41); }

static bool is_exec_file_folio(struct folio *f, const vma_flags_t *flags)
{
	(void)flags;
	/* Called once for each folio that has not been accessed before. */
	nr_updates++;
	return f->pfn % 97 == 0;
}

static struct mem_cgroup *lruvec_memcg(struct lruvec *l) { (void)l; return &memcg; }
static struct pglist_data *lruvec_pgdat(struct lruvec *l) { (void)l; return &node; }
static struct lruvec *mem_cgroup_lruvec(struct mem_cgroup *m, struct pglist_data *p) { (void)m; (void)p; return &lruvec; }
static struct lru_gen_mm_state *get_mm_state(struct lruvec *l) { (void)l; return &mm_state; }
static int lru_gen_from_seq(unsigned long seq) { return seq % MAX_NR_GENS; }
#define DEFINE_MAX_SEQ(l)	unsigned long max_seq = (l)->lrugen.max_seq

static void update_bloom_filter(struct lru_gen_mm_state *s, unsigned long seq, pmd_t *pmd)
{
	(void)s;
	(void)seq;
	(void)pmd;
	nr_bloom++;
}

static bool get_next_vma(unsigned long mask, unsigned long size, struct mm_walk *args,
			 unsigned long *start, unsigned long *end)
{
	(void)mask;
	(void)size;
	if (args->vma == &vmas[2] || !args->vma[1].vm_end)
		return false;
	args->vma++;
	*start = args->vma->vm_start;
	*end = args->vma->vm_end;
	return true;
}

/* As the kernel's: PTEs of one folio that map its pages in order. */
static unsigned int folio_pte_batch_flags(struct folio *folio, struct vm_area_struct *vma,
					  pte_t *ptep, pte_t *ptentp, unsigned int max_nr, int flags)
{
	unsigned int nr = 1;
	pte_t pte;

	(void)vma;
	(void)flags;
	max_nr = min((unsigned long)max_nr, folio->pfn + folio->nr - ptentp->pfn);
	for (; nr < max_nr; nr++) {
		pte = ptep_get(ptep + nr);
		if (!pte.present || pte.pfn != ptentp->pfn + nr)
			break;
		ptentp->young |= pte.young;
		ptentp->dirty |= pte.dirty;
	}
	return nr;
}

static bool test_and_clear_young_ptes(struct vm_area_struct *vma, unsigned long addr,
				      pte_t *pte, unsigned int nr)
{
	bool young = false;

	must_not(addr < vma->vm_start || addr + nr * PAGE_SIZE > vma->vm_end);
	for (; nr; nr--, pte++) {
		young |= pte->young;
		pte->young = false;
	}
	return young;
}

static unsigned long ask(struct mm_struct *m, unsigned long start, unsigned long mask, unsigned int nr)
{
	unsigned long young = 0, i, pte;

	if (!m->notifiers)
		return 0;
	nr_calls++;
	for (i = 0; i < nr; i++) {
		pte = ((start - TABLE) >> PAGE_SHIFT) + i;
		if (i < BITS_PER_LONG && !(mask & BIT(i)))
			continue;
		must_not(pte >= PTRS_PER_PTE);
		asked[pte]++;
		if (secondary_young[pte])
			young |= i < BITS_PER_LONG ? BIT(i) : 1;
		secondary_young[pte] = false;
	}
	return young;
}

static bool mmu_notifier_clear_young(struct mm_struct *m, unsigned long start, unsigned long end)
{
	return ask(m, start, ~0UL, (end - start) >> PAGE_SHIFT);
}

static inline unsigned long mmu_notifier_clear_young_masked(struct mm_struct *m, unsigned long start,
							    unsigned long mask)
{
	return mask ? ask(m, start, mask, BITS_PER_LONG) : 0;
}

static bool test_and_clear_young_ptes_notify(struct vm_area_struct *vma, unsigned long addr,
					     pte_t *pte, unsigned int nr)
{
	bool young = test_and_clear_young_ptes(vma, addr, pte, nr);

	return young | mmu_notifier_clear_young(vma->vm_mm, addr, addr + nr * PAGE_SIZE);
}

#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include TEXT

/* The page tables. */
static uint32_t seed;

static uint32_t rnd(uint32_t n)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % n;
}

/* Each PTE maps the page whose index is that of the PTE and shift; orders[] follow each other. */
static void make_folios(const int *orders, int nr_orders, bool odd)
{
	unsigned long pfn = 0, i, f = 0;

	memset(folios, 0, sizeof(folios));
	memset(folio_of, 0, sizeof(folio_of));
	while (pfn < NR_PFNS) {
		int order = orders[nr_orders == 1 ? 0 : rnd(nr_orders)];
		struct folio *folio = &folios[f++];

		if (pfn + (1UL << order) > NR_PFNS)
			order = 0;
		folio->pfn = FIRST_PFN + pfn;
		folio->nr = 1 << order;
		folio->memcg = &memcg;
		folio->flags.f = (1 + rnd(2)) << LRU_GEN_PGOFF;
		if (odd && !rnd(8))
			folio->memcg = &other_memcg;
		if (odd && !rnd(8))
			folio->flags.f &= ~LRU_GEN_MASK;
		if (odd && !rnd(8))
			folio->flags.f |= BIT(rnd(2) ? PG_referenced : PG_workingset);
		if (odd && !rnd(16))
			folio->nid = 1;
		for (i = 0; i < folio->nr; i++)
			folio_of[pfn++] = folio;
	}
}

/* One PTE in density is young, and so is one page of the secondary MMU. */
static void touch(int density)
{
	int i;

	for (i = 0; i < PTRS_PER_PTE; i++) {
		table[i].young |= table[i].present && density && !rnd(density);
		secondary_young[i] |= table[i].present && density && !rnd(2 * density);
		table[i].dirty |= table[i].present && !rnd(3);
	}
}

static void make_table(int shift, bool odd)
{
	int i;

	memset(secondary_young, 0, sizeof(secondary_young));
	for (i = 0; i < PTRS_PER_PTE; i++) {
		table[i] = (pte_t){ .present = !odd || rnd(16), .pfn = FIRST_PFN + shift + i };
		if (odd && !rnd(32))
			table[i].pfn = FIRST_PFN + rnd(NR_PFNS);
		if (odd && !rnd(64))
			table[i].pfn = ZERO_PFN;
	}
}

static void make_vmas(bool odd)
{
	unsigned long first = odd ? rnd(40) : 0, i;

	memset(vmas, 0, sizeof(vmas));
	for (i = 0; i < (odd ? 3 : 1); i++) {
		vmas[i].vm_mm = &mm;
		vmas[i].vm_start = TABLE + first * PAGE_SIZE;
		first += odd ? 1 + rnd(150) : PTRS_PER_PTE;
		vmas[i].vm_end = TABLE + first * PAGE_SIZE;
		first += odd ? rnd(3) : 0;
	}
}

static bool small_folios;
static unsigned long hash;

static void mix(unsigned long x)
{
	hash = (hash ^ x) * 0x100000001b3UL;
}

static void report(const char *name, const char *pass, struct lru_gen_mm_walk *walk, int ret)
{
	int promoted = 0, referenced = 0, i, g, t, pages = 0;
	/* Reads, of those who look ahead. */
	const char *cost = mm.notifiers && small_folios ? "note" : "same";

	hash = 0xcbf29ce484222325UL;
	for (i = 0; i < NR_PFNS && folios[i].nr; i++) {
		promoted += folio_lru_gen(&folios[i]) == lru_gen_from_seq(lruvec.lrugen.max_seq);
		referenced += folio_test_referenced(&folios[i]);
		mix(folios[i].flags.f);
		mix(folios[i].dirty);
	}
	for (i = 0; i < PTRS_PER_PTE; i++)
		mix(table[i].young | secondary_young[i] << 1 | asked[i] << 2);
	for (g = 0; g < MAX_NR_GENS; g++)
		for (t = 0; t < 2; t++)
			mix(walk->nr_pages[g][t][0]);
	for (i = 0; i < NR_PFNS; i++)
		pages += page_read[i];

	printf("%s,%s same promoted=%d,referenced=%d,ret=%d,total=%d,young=%d,batched=%d,updates=%d,bloom=%d,hash=%lx\n",
	       name, pass, promoted, referenced, ret, walk->mm_stats[MM_LEAF_TOTAL],
	       walk->mm_stats[MM_LEAF_YOUNG], walk->batched, nr_updates, nr_bloom, hash);
	printf("%s,%s,struct-pages same %d\n", name, pass, pages);
	printf("%s,%s,lookups %s %d\n", name, pass, cost, nr_lookups);
	printf("%s,%s,ptep_get %s %d\n", name, pass, cost, nr_ptep_get);
	printf("%s,%s,pfn_valid %s %d\n", name, pass, cost, nr_pfn_valid);
	printf("%s,%s,calls most %d\n", name, pass, nr_calls);
}

static void reset(void)
{
	memset(asked, 0, sizeof(asked));
	memset(page_read, 0, sizeof(page_read));
	nr_ptep_get = nr_pfn_valid = nr_lookups = nr_calls = nr_bloom = nr_updates = 0;
}

static int walk_table(struct lru_gen_mm_walk *walk)
{
	struct mm_walk args = { .mm = &mm, .vma = vmas, .private = walk };
	pmd_t pmd = {};

	reset();
	return walk_pte_range(&pmd, vmas[0].vm_start, vmas[0].vm_end, &args);
}

static void look_around(struct lru_gen_mm_walk *walk, const char *name, bool with_walk)
{
	struct reclaim_state state = { .mm_walk = with_walk ? walk : NULL };
	struct page_vma_mapped_walk pvmw = { .vma = vmas };
	unsigned long nr = (vmas[0].vm_end - vmas[0].vm_start) >> PAGE_SHIFT, i = rnd(nr);
	spinlock_t lock;
	pmd_t pmd;
	int ret;

	for (; i < nr && !table[pte_index(vmas[0].vm_start) + i].present; i++)
		;
	if (i == nr)
		return;
	pvmw.address = vmas[0].vm_start + i * PAGE_SIZE;
	pvmw.pte = table + pte_index(pvmw.address);
	if (pvmw.pte->pfn < FIRST_PFN || folio_of[pvmw.pte->pfn - FIRST_PFN]->memcg != &memcg)
		return;
	pvmw.pte->young = true;
	pvmw.pfn = pvmw.pte->pfn;
	pvmw.pmd = &pmd;
	pvmw.ptl = &lock;
	task.reclaim_state = &state;
	reset();
	ret = lru_gen_look_around(&pvmw, 1);
	report(name, with_walk ? "around" : "around-no-walk", walk, ret);
}

static void scenario(const char *what, const int *orders, int nr_orders, int shift, int density, bool odd)
{
	struct lru_gen_mm_walk walk;
	char name[128];
	int pass, notify, ret;

	for (notify = 0; notify < 2; notify++) {
		snprintf(name, sizeof(name), "%s,shift=%d,young=1/%d,notifiers=%d", what, shift, density, notify);
		seed = shift * 31 + density * 7 + 1;
		for (pass = 0; what[pass]; pass++)
			seed = seed * 33 + what[pass];
		make_folios(orders, nr_orders, odd);
		make_table(shift, odd);
		make_vmas(odd);
		mm.notifiers = notify;
		small_folios = nr_orders > 1 || !orders[0];
		memset(&walk, 0, sizeof(walk));
		walk.lruvec = &lruvec;

		touch(density);
		ret = walk_table(&walk);
		report(name, "first", &walk, ret);
		if (notify && !odd && nr_orders == 1 && !orders[0])
			printf("%s,first,calls less %d\n", name, nr_calls);
		touch(density);
		ret = walk_table(&walk);
		report(name, "again", &walk, ret);
		touch(density);
		look_around(&walk, name, true);
		touch(density);
		look_around(&walk, name, false);
	}
}

int main(void)
{
	static const int orders[] = { 0, 2, 4, 6, 7, 9 };
	static const int mixed[] = { 0, 0, 0, 0, 2, 4, 6 };
	char what[32];
	unsigned int i, odd;
	int shift, density;

	for (i = 0; i < sizeof(orders) / sizeof(orders[0]); i++)
		for (odd = 0; odd < 2; odd++)
			for (shift = 0; shift <= 4; shift += 2)
				for (density = 1; density <= 64; density *= 8) {
					snprintf(what, sizeof(what), "order=%d%s", orders[i], odd ? ",odd" : "");
					scenario(what, &orders[i], 1, shift, density, odd);
				}
	for (i = 0; i < 200; i++) {
		snprintf(what, sizeof(what), "mixed-%u%s", i, i % 2 ? ",odd" : "");
		scenario(what, mixed, sizeof(mixed) / sizeof(mixed[0]), 1 + i % 5, 1 + i % 7, i % 2);
	}
	return 0;
}
