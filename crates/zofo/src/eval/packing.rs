//! Which examples ride in one pass, and what all of them begin with.

use crate::model::common_len;
use crate::task::{EncodedCandidate, EncodedExample};

/// A beginning that all examples share is computed once if it has at least this many tokens: demonstrations do.
const SHORTEST_SHARED: usize = 16;

/// Divides items of these sizes into groups of at most `capacity`, or of one item: the largest first, each into the first
/// group that has room (first-fit decreasing). Equal sizes keep their order.
pub(super) fn pack(sizes: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&item| std::cmp::Reverse(sizes[item]));
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    // Groups before this one have no room for anything.
    let mut first_open = 0;
    let smallest = sizes.iter().min().copied().unwrap_or_default();
    for item in order {
        let size = sizes[item];
        match groups[first_open..].iter_mut().find(|(used, _)| used + size <= capacity) {
            Some((used, group)) => {
                *used += size;
                group.push(item);
            }
            None => groups.push((size, vec![item])),
        }
        while groups.get(first_open).is_some_and(|(used, _)| used + smallest > capacity) {
            first_open += 1;
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Divides examples into groups in which about `capacity` tokens are fed, each after the first `skipped`: those that begin
/// alike are neighbours, and what they begin with counts once.
pub(super) fn pack_sharing(examples: &[EncodedExample], skipped: usize, capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.sort_by_key(|&index| first_fed(&examples[index]));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut used = 0;
    for index in order {
        let example = &examples[index];
        if let Some(group) = groups.last_mut()
            && let Some(&before) = group.last()
        {
            let shared = common_len(first_fed(&examples[before]), first_fed(example)).max(skipped);
            let more = fed_tokens(example, shared);
            if used + more <= capacity {
                group.push(index);
                used += more;
                continue;
            }
        }
        groups.push(vec![index]);
        used = fed_tokens(example, skipped);
    }
    groups
}

fn first_fed(example: &EncodedExample) -> &[u32] {
    example.candidates.first().map_or(&[], EncodedCandidate::fed)
}

/// The number of tokens that an example's candidates take in a pass, of which the first `shared` are computed elsewhere.
pub(super) fn fed_tokens(example: &EncodedExample, shared: usize) -> usize {
    let mut sequences: Vec<&[u32]> = example.candidates.iter().map(EncodedCandidate::fed).collect();
    sequences.sort_unstable();
    let after_another = sequences.windows(2).map(|pair| pair[1].len() - common_len(pair[0], pair[1]));
    sequences.first().map_or(0, |first| first.len().saturating_sub(shared)) + after_another.sum::<usize>()
}

/// The tokens that all examples begin with, if it is worth while to compute them once: without any token that predicts
/// one of an answer.
pub(super) fn common_beginning(examples: &[EncodedExample]) -> &[u32] {
    if examples.len() < 2 {
        return &[];
    }
    let candidates = examples.iter().flat_map(|example| &example.candidates);
    longest_common(candidates.map(|candidate| &candidate.ids[..candidate.context_len() - 1]))
}

/// The tokens that all prompts begin with, if it is worth while to compute them once: without the last of any.
pub(super) fn common_beginning_of_prompts(prompts: &[Vec<u32>]) -> &[u32] {
    if prompts.len() < 2 {
        return &[];
    }
    longest_common(prompts.iter().map(|prompt| &prompt[..prompt.len().saturating_sub(1)]))
}

/// What several sequences begin with, or nothing if that is too short.
fn longest_common<'a>(sequences: impl Iterator<Item = &'a [u32]>) -> &'a [u32] {
    let common = sequences.reduce(|common, other| &common[..common_len(common, other)]).unwrap_or_default();
    if common.len() >= SHORTEST_SHARED { common } else { &[] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example(prompt: &[u32], answers: &[&[u32]]) -> EncodedExample {
        let candidate = |answer: &&[u32]| EncodedCandidate::new([prompt, answer].concat(), answer.len());
        EncodedExample { candidates: answers.iter().map(candidate).collect(), golds: vec![0], line: 1 }
    }

    #[test]
    fn groups_are_filled_and_the_largest_come_first() {
        assert_eq!(pack(&[3, 7, 2, 5, 12, 3], 10), [vec![4], vec![1, 0], vec![3, 5, 2]]);
        assert_eq!(pack(&[], 10), Vec::<Vec<usize>>::new());
    }

    proptest! {
        #[test]
        fn every_item_is_in_one_group_and_no_group_is_too_large(
            sizes in prop::collection::vec(1_usize..50, 0..200),
            capacity in 1_usize..120,
        ) {
            let groups = pack(&sizes, capacity);
            let mut items = groups.concat();
            items.sort_unstable();
            prop_assert_eq!(items, (0..sizes.len()).collect::<Vec<_>>());
            for group in &groups {
                prop_assert!(group.len() == 1 || group.iter().map(|&item| sizes[item]).sum::<usize>() <= capacity);
            }
        }
    }

    #[test]
    fn tokens_count_once_and_the_last_of_an_answer_predicts_nothing() {
        let example = example(&[1, 2, 3], &[&[4], &[5, 6, 7]]);
        assert_eq!(fed_tokens(&example, 0), 3 + 2);
        assert_eq!(fed_tokens(&example, 2), 1 + 2);
    }

    #[test]
    fn examples_that_begin_alike_ride_together() {
        let [long, other]: [Vec<u32>; 2] = [(0..20).collect(), (100..120).collect()];
        let examples = [&long[..], &other, &long[..19], &other[..18]].map(|prompt| example(prompt, &[&[7], &[8, 9]]));
        // 19 + 1 of the shorter and 1 + 1 more of the longer; then 18 + 1 and 2 + 1.
        assert_eq!(pack_sharing(&examples, 0, 22), [vec![2, 0], vec![3, 1]]);
        assert_eq!(pack_sharing(&examples, 0, 21), [vec![2], vec![0], vec![3], vec![1]]);
        assert_eq!(pack_sharing(&examples, 0, 43), [vec![2, 0, 3], vec![1]]);
        assert_eq!(pack_sharing(&[], 0, 44), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn the_common_beginning_ends_before_the_token_that_predicts_an_answer() {
        let prompt: Vec<u32> = (0..20).collect();
        let longer: Vec<u32> = (0..25).collect();
        let one = example(&prompt, &[&[30], &[31, 32]]);
        let other = example(&longer, &[&[30], &[31, 32]]);
        assert_eq!(common_beginning(&[one.clone(), other.clone()]), &prompt[..19]);
        assert_eq!(common_beginning(&[other.clone(), one.clone()]), &prompt[..19]);
        let different = example(&[&prompt[..18], &[99, 98, 97]].concat(), &[&[30], &[31]]);
        assert_eq!(common_beginning(&[one.clone(), different]), &prompt[..18]);
        // One example shares with nobody; too little is not worth while.
        assert!(common_beginning(std::slice::from_ref(&one)).is_empty());
        assert!(common_beginning(&[one, example(&prompt[..10], &[&[30], &[31]])]).is_empty());
    }
}
