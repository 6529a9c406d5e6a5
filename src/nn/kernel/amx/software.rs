//! The tile instructions in software, so that the AMX kernels are tested on every x86-64 Linux machine.
//!
//! Where the processor has no tiles their instructions raise SIGILL; the handler here decodes the seven that the
//! kernels use, does what the manual says they do (Intel 64 and IA-32 Architectures Software Developer's Manual,
//! volume 2), and goes on behind them. Every access outside what it knows ends the test with a message. Slow: a
//! signal per instruction.

use std::cell::RefCell;
use std::sync::OnceLock;

use half::bf16;

/// Bytes of a row of a tile at most.
const ROW: usize = 64;

#[derive(Clone, Copy, Default)]
struct Tile {
    row_bytes: usize,
    rows: usize,
}

/// The tile registers of a thread; without a shape (no rows), a tile must not be used.
struct Registers {
    shapes: [Tile; 8],
    bytes: [[[u8; ROW]; 16]; 8],
}

thread_local! {
    static REGISTERS: RefCell<Registers> = const {
        RefCell::new(Registers {
            shapes: [Tile { row_bytes: 0, rows: 0 }; 8],
            bytes: [[[0; ROW]; 16]; 8],
        })
    };
}

/// Lets this process execute tile instructions; once is enough.
pub(super) fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        // SAFETY: the action is fully initialised, and the handler has the signature that SA_SIGINFO asks for.
        let failed = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_illegal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut())
        };
        assert_eq!(failed, 0, "the handler is installed");
    });
}

/// Decodes and executes the instruction that raised the signal. A panic here ends the process.
extern "C" fn on_illegal(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a machine context to a handler installed with SA_SIGINFO, and the instruction pointer
    // points to at least the bytes of the instruction that was refused.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let at = registers[libc::REG_RIP as usize] as *const u8;
        let length = REGISTERS.with_borrow_mut(|tiles| execute(tiles, at, registers));
        registers[libc::REG_RIP as usize] += length as i64;
    }
}

/// General registers in the order of their numbers in instructions.
const NUMBERED: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// What an instruction's address bytes mean.
struct Address {
    start: usize,
    /// From one row of a tile to the next.
    stride: usize,
    /// Bytes of SIB and displacement.
    length: usize,
}

/// Executes the instruction at `at` and returns its length.
///
/// # Safety
///
/// `at` is readable for an instruction; what the instruction reads or writes is accessible.
unsafe fn execute(tiles: &mut Registers, at: *const u8, general: &[i64; 23]) -> usize {
    // SAFETY: an instruction of at least five bytes lies there: the shortest that we have.
    let [escape, bits, rest, opcode, form] = unsafe { at.cast::<[u8; 5]>().read_unaligned() };
    assert!(escape == 0xc4 && bits & 0x1f == 2, "not a tile instruction");
    assert!(rest & 0x84 == 0, "W and L are zero in tile instructions");
    // Bits of VEX that extend register numbers are stored inverted.
    let extend = |bit: u8| usize::from(!bits >> bit & 1) << 3;
    let (prefix, third) = (rest & 3, usize::from(!rest >> 3 & 15));
    let (mode, reg, rm) = (form >> 6, usize::from(form >> 3 & 7), usize::from(form & 7));
    let address = || {
        let value = |number: usize| general[NUMBERED[number] as usize] as usize;
        // SAFETY: an instruction with an address of this form has these bytes.
        unsafe {
            let (base, index, scale, sib) = if rm == 4 {
                let sib = *at.add(5);
                let base = usize::from(sib & 7) | extend(5);
                let index = usize::from(sib >> 3 & 7) | extend(6);
                (base, (index != 4).then_some(index), sib >> 6, 1)
            } else {
                (rm | extend(5), None, 0, 0)
            };
            assert!(
                mode != 0 || base & 7 != 5,
                "an address without a base register"
            );
            let (displacement, bytes) = match mode {
                0 => (0, 0),
                1 => (i64::from(*at.add(5 + sib).cast::<i8>()), 1),
                _ => (i64::from(at.add(5 + sib).cast::<i32>().read_unaligned()), 4),
            };
            Address {
                start: value(base).wrapping_add_signed(displacement as isize),
                stride: index.map_or(0, |index| value(index) << scale),
                length: sib + bytes,
            }
        }
    };
    match (opcode, prefix, mode) {
        // TILERELEASE
        (0x49, 0, 3) => {
            tiles.shapes = [Tile::default(); 8];
            5
        }
        // LDTILECFG
        (0x49, 0, _) => {
            let address = address();
            // SAFETY: the instruction reads 64 bytes.
            let shapes = unsafe { (address.start as *const [u8; 64]).read_unaligned() };
            assert_eq!(shapes[..2], [1, 0], "palette 1, from the first row");
            for (number, tile) in tiles.shapes.iter_mut().enumerate() {
                tile.row_bytes = usize::from(shapes[16 + 2 * number]);
                tile.rows = usize::from(shapes[48 + number]);
                assert!(tile.row_bytes <= ROW && tile.rows <= 16);
            }
            tiles.bytes = [[[0; ROW]; 16]; 8];
            5 + address.length
        }
        // TILEZERO
        (0x49, 3, 3) => {
            tiles.shape(reg);
            tiles.bytes[reg] = [[0; ROW]; 16];
            5
        }
        // TILELOADD
        (0x4b, 3, 0..=2) => {
            let (address, shape) = (address(), tiles.shape(reg));
            tiles.bytes[reg] = [[0; ROW]; 16];
            for (row, bytes) in tiles.bytes[reg].iter_mut().take(shape.rows).enumerate() {
                let from = (address.start + row * address.stride) as *const u8;
                // SAFETY: the instruction reads its rows.
                unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), shape.row_bytes) };
            }
            5 + address.length
        }
        // TILESTORED
        (0x4b, 2, 0..=2) => {
            let (address, shape) = (address(), tiles.shape(reg));
            for (row, bytes) in tiles.bytes[reg].iter().take(shape.rows).enumerate() {
                let to = (address.start + row * address.stride) as *mut u8;
                // SAFETY: the instruction writes its rows.
                unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), shape.row_bytes) };
            }
            5 + address.length
        }
        // TDPBF16PS
        (0x5c, 2, 3) => {
            tiles.multiply(reg, rm, third);
            5
        }
        _ => panic!("unknown instruction {opcode:#x} with prefix {prefix} and mode {mode}"),
    }
}

impl Registers {
    /// The shape of a tile that has one.
    fn shape(&self, tile: usize) -> Tile {
        let shape = self.shapes[tile];
        assert!(
            shape.rows > 0 && shape.row_bytes > 0,
            "tile {tile} has no shape"
        );
        shape
    }

    /// Adds the products of the pairs in rows of `left` and of `right` to `sums`.
    fn multiply(&mut self, sums: usize, left: usize, right: usize) {
        let [sum, a, b] = [sums, left, right].map(|tile| self.shape(tile));
        assert!(sums != left && sums != right && left != right);
        assert!(a.rows == sum.rows && b.row_bytes == sum.row_bytes);
        assert_eq!(a.row_bytes / 4, b.rows, "pairs");
        let number = |bytes: &[u8], index: usize| {
            let bits = u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]);
            bf16::from_bits(bits).to_f32()
        };
        for row in 0..sum.rows {
            for pair in 0..b.rows {
                for column in 0..sum.row_bytes / 4 {
                    let place = 4 * column..4 * column + 4;
                    let old = &mut self.bytes[sums][row][place];
                    let mut value = f32::from_le_bytes([old[0], old[1], old[2], old[3]]);
                    for half in 0..2 {
                        value += number(&self.bytes[left][row], 2 * pair + half)
                            * number(&self.bytes[right][pair], 2 * column + half);
                    }
                    self.bytes[sums][row][4 * column..4 * column + 4]
                        .copy_from_slice(&value.to_le_bytes());
                }
            }
        }
    }
}
