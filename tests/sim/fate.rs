//! What happens to one call on its way to the store and back.

use crate::mix::Mix;
use crate::random::Random;

#[derive(Debug, Clone, Copy, Default)]
pub struct Fate {
    pub is_lost: bool,
    pub is_answer_lost: bool,
    pub is_repeated: bool,
    pub delay_ms: u64,
    pub delay_back_ms: u64,
}

impl Fate {
    pub fn draw(mix: &Mix, random: &mut Random) -> Self {
        let mut fate = Self {
            is_lost: random.permille(mix.store_lose),
            is_answer_lost: random.permille(mix.store_lose),
            is_repeated: random.permille(mix.store_repeat),
            ..Self::default()
        };
        if random.permille(mix.store_slow) {
            fate.delay_ms = random.below(200);
            fate.delay_back_ms = random.below(200);
        }
        fate
    }

    pub fn faults(self) -> u64 {
        u64::from(self.is_lost) + u64::from(self.is_answer_lost) + u64::from(self.is_repeated)
    }
}
