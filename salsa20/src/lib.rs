//! The cipher of the swarm's key: Salsa20 and XSalsa20 (Bernstein, "The Salsa20 family of stream
//! ciphers", 2007, and "Extending the Salsa20 nonce", 2011), computed by libsodium.
//!
//! `libp2p-pnet` passes every byte of every connection through the crate `salsa20`, whose code for
//! one block at a time was the dearest part of moving data. This crate has its name and that part
//! of its interface which is used, and takes its place in the whole workspace:
//! `docs/decisions/0013-salsa20.md`. It owns nothing but the calls into the library.

pub use cipher;

use std::ptr;

use cipher::consts::{U8, U24, U32};
use cipher::inout::InOutBuf;
use cipher::{Iv, IvSizeUser, Key, KeyIvInit, KeySizeUser, StreamCipher, StreamCipherError};

/// Bytes of a step of the cipher's counter.
const BLOCK: usize = 64;

/// Salsa20: a key of 32 bytes, a nonce of 8.
pub struct Salsa20 {
    key: [u8; 32],
    nonce: [u8; 8],
    /// Bytes that went through.
    position: u64,
}

/// XSalsa20: a key of 32 bytes, a nonce of 24, which is long enough to be chosen at random.
pub struct XSalsa20(Salsa20);

impl KeySizeUser for Salsa20 {
    type KeySize = U32;
}

impl KeySizeUser for XSalsa20 {
    type KeySize = U32;
}

impl IvSizeUser for Salsa20 {
    type IvSize = U8;
}

impl IvSizeUser for XSalsa20 {
    type IvSize = U24;
}

impl KeyIvInit for Salsa20 {
    fn new(key: &Key<Self>, nonce: &Iv<Self>) -> Self {
        choose_code();
        Self { key: (*key).into(), nonce: (*nonce).into(), position: 0 }
    }
}

impl KeyIvInit for XSalsa20 {
    fn new(key: &Key<Self>, nonce: &Iv<Self>) -> Self {
        choose_code();
        let (first, last) = nonce.split_at(16);
        let mut subkey = [0; 32];
        // SAFETY: reads 16 bytes of the nonce and 32 of the key, writes 32; without a constant it
        // takes that of Salsa20.
        #[allow(unsafe_code)]
        unsafe {
            let (out, constant) = (subkey.as_mut_ptr(), ptr::null());
            libsodium_sys::crypto_core_hsalsa20(out, first.as_ptr(), key.as_ptr(), constant);
        }
        Self(Salsa20::new(&subkey.into(), Iv::<Salsa20>::from_slice(last)))
    }
}

impl StreamCipher for Salsa20 {
    fn try_apply_keystream_inout(
        &mut self,
        data: InOutBuf<'_, '_, u8>,
    ) -> Result<(), StreamCipherError> {
        let end = self.position.checked_add(data.len() as u64).ok_or(StreamCipherError)?;
        let used = (self.position % BLOCK as u64) as usize;
        let left_of_block = ((BLOCK - used) % BLOCK).min(data.len());
        let (mut head, whole) = data.split_at(left_of_block);
        if !head.is_empty() {
            let mut block = [0; BLOCK];
            self.xor(block.as_mut_slice().into(), self.position / BLOCK as u64);
            head.xor_in2out(&block[used..used + head.len()]);
        }
        self.xor(whole, self.position.div_ceil(BLOCK as u64));
        self.position = end;
        Ok(())
    }
}

impl StreamCipher for XSalsa20 {
    fn try_apply_keystream_inout(
        &mut self,
        data: InOutBuf<'_, '_, u8>,
    ) -> Result<(), StreamCipherError> {
        self.0.try_apply_keystream_inout(data)
    }
}

impl Salsa20 {
    /// XORs the key's stream from its block `first` on with `data`.
    fn xor(&self, data: InOutBuf<'_, '_, u8>, first: u64) {
        let len = data.len() as u64;
        let (input, output) = data.into_raw();
        // SAFETY: reads `len` bytes of input, 8 of the nonce, 32 of the key, and writes `len`; that
        // input and output are the same or apart, which it asks for, is a promise of `InOutBuf`.
        #[allow(unsafe_code)]
        unsafe {
            let (nonce, key) = (self.nonce.as_ptr(), self.key.as_ptr());
            libsodium_sys::crypto_stream_salsa20_xor_ic(output, input, len, nonce, first, key);
        }
    }
}

/// Has the library choose among its codes the fastest that this machine can run.
fn choose_code() {
    // SAFETY: may be called by any thread, any number of times.
    #[allow(unsafe_code)]
    let chosen = unsafe { libsodium_sys::sodium_init() };
    assert!(chosen >= 0, "libsodium finds no source of random numbers on this machine");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reference::cipher::{KeyIvInit as _, StreamCipher as _};

    use super::*;

    #[test]
    fn the_stream_is_that_of_the_examples_of_nacl() {
        // "Cryptography in NaCl" (Bernstein, 2009), sections 8 to 10: its first bytes.
        let key = [
            0x1b, 0x27, 0x55, 0x64, 0x73, 0xe9, 0x85, 0xd4, 0x62, 0xcd, 0x51, 0x19, 0x7a, 0x9a,
            0x46, 0xc7, 0x60, 0x09, 0x54, 0x9e, 0xac, 0x64, 0x74, 0xf2, 0x06, 0xc4, 0xee, 0x08,
            0x44, 0xf6, 0x83, 0x89,
        ];
        let nonce = [
            0x69, 0x69, 0x6e, 0xe9, 0x55, 0xb6, 0x2b, 0x73, 0xcd, 0x62, 0xbd, 0xa8, 0x75, 0xfc,
            0x73, 0xd6, 0x82, 0x19, 0xe0, 0x03, 0x6b, 0x7a, 0x0b, 0x37,
        ];
        let mut stream = [0; 16];
        XSalsa20::new(&key.into(), &nonce.into()).apply_keystream(&mut stream);
        assert_eq!(
            stream,
            [
                0xee, 0xa6, 0xa7, 0x25, 0x1c, 0x1e, 0x72, 0x91, 0x6d, 0x11, 0xc2, 0xcb, 0x21, 0x4d,
                0x3c, 0x25
            ]
        );
    }

    proptest! {
        #[test]
        fn it_gives_what_the_crate_does_whose_place_it_takes(
            key in any::<[u8; 32]>(),
            nonce in any::<[u8; 24]>(),
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1_500), 0..12),
        ) {
            let mut ours = XSalsa20::new(&key.into(), &nonce.into());
            let mut theirs = reference::XSalsa20::new(&key.into(), &nonce.into());
            for piece in pieces {
                let (mut one, mut other) = (piece.clone(), piece);
                ours.apply_keystream(&mut one);
                theirs.apply_keystream(&mut other);
                prop_assert_eq!(one, other);
            }
            let nonce = <[u8; 8]>::try_from(&nonce[..8])?;
            let (mut one, mut other) = ([0; 64], [0; 64]);
            Salsa20::new(&key.into(), &nonce.into()).apply_keystream(&mut one);
            reference::Salsa20::new(&key.into(), &nonce.into()).apply_keystream(&mut other);
            prop_assert_eq!(one, other);
        }
    }
}
