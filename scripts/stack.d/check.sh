# shellcheck shell=bash
# scripts/stack check - everything about the patches that a program can judge
#
# series and patches/ name the same files, and COVER-LETTER.md has a section for each topic; the
# stack applies, export gives the same bytes, selftests are in sync; checkpatch (less
# scripts/waivers), codespell (less scripts/spelling), rules for changelogs; no SPTE is read plainly.

FAULTS=0
PASSES=0

fault() {
	FAULTS=$((FAULTS + 1))
	printf 'not ok - %s\n' "$*"
}

pass() {
	PASSES=$((PASSES + 1))
	printf 'ok - %s\n' "$*"
}

# verdict WORDS FAULT...: one ok line if there is no FAULT, else a not-ok line for each.
verdict() {
	local words=$1 f
	shift
	(($#)) || pass "$words"
	for f; do
		[[ $f ]] && fault "$words: $f"
	done
	return 0
}

check_files() {
	local p faults=() file
	declare -A seen=()

	for p in ${PATCHES[@]+"${PATCHES[@]}"}; do
		[[ -f $ROOT/patches/$p ]] || faults+=("$p is missing in patches/")
		[[ ${seen[$p]+set} ]] && faults+=("$p stands twice")
		seen[$p]=1
	done
	while read -r file; do
		[[ ${seen[$file]+set} ]] || faults+=("patches/$file is not in series")
	done < <(cd "$ROOT/patches" && find . -type f -printf '%P\n' | sort)
	verdict "series and patches/ name the same files" ${faults[@]+"${faults[@]}"}
}

# check_changelog PATCH: the rules of maintainer-kvm-x86.rst and coding-assistants.rst that a
# program can judge. Prints a line a fault.
check_changelog() {
	local file=$ROOT/patches/$1 subject body words pronoun

	subject=$(git mailinfo -k /dev/null /dev/null <"$file" | sed -n 's/^Subject: \(\[PATCH\] \)\?//p')
	# The changelog proper: after the mail header, before the first "---" line.
	body=$(awk '!h { if ($0 == "") h = 1; next } /^---$/ { exit } { print }' "$file")
	words=$(grep -vE '^[A-Z][A-Za-z-]+: |^ ' <<<"$body" || true)

	if grep -qE '^(virt|arch/[a-z0-9]+)/kvm|selftests/kvm' < <(git apply --numstat "$file" | cut -f3); then
		[[ $subject =~ ^(RISC-V:\ |LoongArch:\ )?KVM:\ ((x86|x86/mmu|x86/pmu|x86/xen|arm64|arm64:\ nv|s390|guest_memfd|TDX|selftests|SVM|nSVM|VMX|nVMX):\ )?[A-Z] ]] ||
			echo "shortlog '$subject' is not 'KVM: TOPIC: Capitalised ...'"
	fi
	[[ $subject == *. ]] && echo "shortlog ends with a full stop"
	((${#subject} <= 80)) || echo "shortlog has ${#subject} characters, 80 is the limit"
	[[ $words ]] || echo "no changelog"
	# Neither I/O nor microseconds.
	pronoun=$(sed -E 's/i\.e\.//g; s/I\/O//g; s/[0-9] us\b//g' <<<"$words" | grep -oiwE "I|we|our|us|my" | head -n 1 || true)
	[[ -z $pronoun ]] || echo "changelog uses a pronoun: $pronoun"
	grep -qE '^(This patch|This commit|Added|Adds|Fixes|Fixed|Changes|Changed|Moves|Moved) ' <<<"$words" && echo "changelog is not in the imperative: $(grep -E -m1 '^(This patch|This commit|Added|Adds|Fixes|Fixed|Changes|Changed|Moves|Moved) ' <<<"$words")"
	# Functions of the patch that the changelog names must carry "()".
	unbraced_functions "$file" "$words"
	grep -q '^From ' <<<"$body" && echo "a line of the changelog begins with 'From ', where mailboxes are split: word it differently"
	grep -q '^Signed-off-by:' <<<"$body" && echo "carries a Signed-off-by: only the human who submits adds one"
	grep -q '^Assisted-by: LLM' <<<"$body" || echo "no 'Assisted-by: LLM' trailer"
	return 0
}

# unbraced_functions FILE WORDS: a function that the diff calls or defines, named in WORDS
# without parentheses.
unbraced_functions() {
	local f

	while read -r f; do
		if grep -qE "(^|[^A-Za-z0-9_>.])$f([^A-Za-z0-9_(]|$)" <<<"$2"; then
			echo "changelog names $f without ()"
		fi
	done < <(sed -n '/^diff --git/,$p' "$1" | grep '^[-+ ]' |
		{ grep -oE '\b[a-z][a-z0-9]*_[a-z0-9_]+\(' || true; } | tr -d '(' | sort -u)
}

# waive PATCH: drops from checkpatch's lines on stdin what scripts/waivers excuses for PATCH.
waive() {
	local type pattern reason types=()

	while read -r type pattern reason; do
		[[ $type == "#"* || -z $type ]] && continue
		[[ $reason ]] || die $E_STACK "scripts/waivers: $type $pattern has no reason"
		# shellcheck disable=SC2053 # a pattern is meant
		[[ $1 == $pattern ]] && types+=("$type")
	done <"$ROOT/scripts/waivers"
	grep -vE "^$|:($(IFS='|'; echo "${types[*]-none}")):" || true
}

# check_patch PATCH SPELLING: what checkpatch, codespell, which found SPELLING, and the rules for changelogs say.
check_patch() {
	local p=$1 spelling=$2 out faults

	# Debian's python3, and not one of the user's, has what checkpatch's spdxcheck.py needs.
	out=$(cd "$LINUX" && PATH=/usr/bin:/bin:$PATH no_dotfiles perl scripts/checkpatch.pl --no-signoff --quiet \
		--no-summary --terse --show-types "$ROOT/patches/$p" 2>&1) || true
	mapfile -t faults < <(waive "$p" <<<"$out" | sed 's/^[^:]*\///')
	verdict "checkpatch $p" ${faults[@]+"${faults[@]}"}
	mapfile -t faults < <(grep -oE "/patches/$p:[0-9]+: .*" <<<"$spelling" | sed 's,^/patches/,,' || true)
	verdict "codespell $p" ${faults[@]+"${faults[@]}"}
	mapfile -t faults < <(check_changelog "$p")
	verdict "changelog $p" ${faults[@]+"${faults[@]}"}
}

check_each_patch() {
	local p faults spelled spelling here=() dir i pids=() cpus

	spelled=$(sed '/^#/d; s/ .*//' "$ROOT/scripts/spelling" | paste -sd,)
	for p in "${PATCHES[@]}"; do
		[[ ! -f $ROOT/patches/$p ]] || here+=("$p")
	done
	((${#here[@]})) || return 0
	# All at once: to begin takes it longer than to read a patch. It reads a .codespellrc where it runs.
	spelling=$(cd "$ROOT" && codespell -q 3 -L "$spelled" "${here[@]/#/$ROOT/patches/}" 2>&1) || true
	mapfile -t faults < <(grep -vE '^$|/patches/[^/:]+:[0-9]+: ' <<<"$spelling" || true)
	verdict "codespell runs" ${faults[@]+"${faults[@]}"}

	# One for each CPU at a time; told in order.
	dir=$(mktemp -d) cpus=$(nproc)
	for ((i = 0; i < ${#here[@]} + cpus; i++)); do
		((i < cpus)) || tell $((i - cpus))
		((i < ${#here[@]})) || continue
		check_patch "${here[i]}" "$spelling" >"$dir/$i" &
		pids[i]=$!
	done
	rm -r "$dir"
}

# tell I: check_each_patch()'s Ith patch is done.
tell() {
	(($1 < ${#here[@]})) || return 0
	wait "${pids[$1]}" || die $? "${here[$1]} could not be checked"
	cat "$dir/$1"
	PASSES=$((PASSES + $(grep -c '^ok' "$dir/$1" || true)))
	FAULTS=$((FAULTS + $(grep -c '^not ok' "$dir/$1" || true)))
}

# incomplete_selftests TREE: what the patch on top of TREE leaves without a file: programs that the Makefile
# names, and those of our headers that are included. Prints a line each.
incomplete_selftests() {
	local files include

	! git -C "$1" diff --quiet HEAD~1 HEAD -- "$KSELFTEST" || return 0
	files=$(git -C "$1" ls-tree -r --name-only "HEAD:$KSELFTEST")
	git -C "$1" show "HEAD:$KSELFTEST/Makefile.kvm" |
		sed -nE 's/^TEST_GEN_PROGS[A-Za-z0-9_]* *\+?= *([a-z][a-z0-9_/]*)$/\1.c/p' | sort -u |
		while read -r include; do
			grep -qxF "$include" <<<"$files" || echo "Makefile.kvm names $include, which a later patch adds"
		done
	git -C "$1" grep -hoE '^#include "[^"]+"' HEAD -- "$KSELFTEST" | cut -d'"' -f2 | sort -u |
		while read -r include; do
			compgen -G "$ROOT/selftests/include/$include" >/dev/null ||
				compgen -G "$ROOT/selftests/include/*/$include" >/dev/null || continue
			grep -qE "^include/([a-z0-9]+/)?$include$" <<<"$files" ||
				echo "$include is included, which a later patch adds"
		done
}

# check_round_trip: applies the stack to a scratch branch without a work tree of its own,
# exports it again and compares bytes.
check_round_trip() {
	local tmp faults=() incomplete=() p n=0 f

	# A sparse work tree: git am writes only what the patches touch.
	tmp=$(mktemp -d "$BUILD/roundtrip.XXXXXX")
	git -C "$LINUX" worktree add -q --detach --no-checkout "$tmp/linux" base
	# .gitattributes: it says what a hunk header quotes.
	git -C "$tmp/linux" sparse-checkout set --no-cone /MAINTAINERS /.gitattributes
	git -C "$tmp/linux" checkout -q base
	for p in "${PATCHES[@]}"; do
		n=$((n + 1))
		if ! am_one "$tmp/linux" "$ROOT/patches/$p" >"$tmp/log" 2>&1; then
			faults+=("$p does not apply: $(grep -m1 '^error:' "$tmp/log")")
			break
		fi
		while read -r f; do
			incomplete+=("$p: $f")
		done < <(incomplete_selftests "$tmp/linux")
	done
	verdict "each selftest patch has what its selftests need" ${incomplete[@]+"${incomplete[@]}"}
	verdict "the stack applies to $(cat "$BUILD/base-version" 2>/dev/null || echo base) without fuzz" ${faults[@]+"${faults[@]}"}
	if ((${#faults[@]} == 0)); then
		write_patches "$tmp/linux" base "$tmp/out"
		mapfile -t faults < <(diff -rq "$ROOT/patches" "$tmp/out" || true)
		verdict "export after apply gives the same bytes" ${faults[@]+"${faults[@]}"}
		faults=()
		while read -r p; do
			git -C "$tmp/linux" show "HEAD:$KSELFTEST/$p" 2>/dev/null | cmp -s - "$ROOT/selftests/$p" ||
				faults+=("selftests/$p differs from the patch that adds it: scripts/stack export")
		done < <(cd "$ROOT/selftests" && find . -type f -name '*.[chS]' -printf '%P\n' | sort)
		verdict "selftests/ and the selftest patches are in sync" ${faults[@]+"${faults[@]}"}
	fi
	git -C "$LINUX" worktree remove --force "$tmp/linux"
	rm -rf "$tmp"
}

# plain_reads COMMIT: lines that read an SPTE of the shadow MMU without READ_ONCE(), although dirty logging and
# aging change SPTEs outside of mmu_lock. kvm_mmu_check_sptes_at_free() may: nobody else has the page any more.
plain_reads() {
	{ git -C "$LINUX" grep -nE '(^|[^A-Za-z0-9_>.])\*\(?(_sptep_|sptep|spte|huge_sptep|parent_pte|it\.sptep|(it|iterator|iter)->sptep)\)?([^A-Za-z0-9_]|$)|->spt\[' \
		"$1" -- arch/x86/kvm/mmu/{mmu.c,paging_tmpl.h,mmutrace.h,mmu_internal.h} |
		grep -vE '(READ|WRITE)_ONCE\(|u64 \*|, \*spte;|&(huge_)?sp->spt\[|:[0-9]+:[[:space:]]*\*? ?\*|/\*.*\*/|is_shadow_present_pte\(sp->spt\[i\]\)\)\)' |
		cut -d: -f2- || true; }
}

check_sptes() {
	local faults

	# The base has such lines: what doesn't find them finds nothing.
	git -C "$LINUX" cat-file -e base:arch/x86/kvm/mmu/mmu.c 2>/dev/null || return 0
	mapfile -t faults < <(plain_reads base | grep . >/dev/null || echo "finds nothing in the base")
	mapfile -t -O ${#faults[@]} faults < <(plain_reads HEAD)
	verdict "the shadow MMU's SPTEs are read by READ_ONCE()" ${faults[@]+"${faults[@]}"}
}

verb_check() {
	(($#)) && die $E_USAGE "check takes no options"
	need_packages git perl codespell /usr/lib/python3/dist-packages/ply /usr/lib/python3/dist-packages/git
	need_base
	read_series
	check_files
	((${#PATCHES[@]})) && check_each_patch
	check_round_trip
	check_sptes
	printf '%d passed, %d failed, 0 skipped\n' "$PASSES" "$FAULTS"
	((FAULTS == 0)) || exit $E_STACK
}
