// @solana/web3.js 1: send, confirm, subscribe, fetch, and how a refusal is told. Prints one JSON line.
import {
  Connection, Keypair, SystemProgram, Transaction, TransactionMessage, VersionedTransaction, sendAndConfirmTransaction,
} from '@solana/web3.js';

const [url, wsEndpoint] = process.argv.slice(2);
const connection = new Connection(url, { commitment: 'confirmed', wsEndpoint });
const payer = Keypair.generate();
const target = Keypair.generate().publicKey;
const seen = {};

const airdrop = await connection.requestAirdrop(payer.publicKey, 2e9);
const latest = await connection.getLatestBlockhash();
const confirmed = await connection.confirmTransaction({ signature: airdrop, ...latest });
seen.airdropped = confirmed.value.err === null && (await connection.getBalance(payer.publicKey)) === 2e9;

const heard = (subscribe) => new Promise((resolve) => subscribe(resolve));
const logs = heard((resolve) => connection.onLogs(payer.publicKey, (entry) => resolve(entry)));
const change = heard((resolve) => connection.onAccountChange(target, (info) => resolve(info.lamports)));
const slot = heard((resolve) => connection.onSlotChange((info) => resolve(info.slot > info.parent)));
// The subscriptions are asked for one after another; none is older than the slot that it hears of.
seen.slot = await slot;

const move = SystemProgram.transfer({ fromPubkey: payer.publicKey, toPubkey: target, lamports: 1e7 });
const signature = await sendAndConfirmTransaction(connection, new Transaction().add(move), [payer]);
const entry = await logs;
seen.logs = entry.signature === signature && entry.err === null && entry.logs.length === 2;
seen.change = await change;

const { blockhash } = await connection.getLatestBlockhash();
const message = new TransactionMessage({ payerKey: payer.publicKey, recentBlockhash: blockhash, instructions: [move] });
const versioned = new VersionedTransaction(message.compileToV0Message());
versioned.sign([payer]);
const simulated = await connection.simulateTransaction(versioned);
seen.simulated = simulated.value.err === null && simulated.value.unitsConsumed === 150;

const stored = await connection.getTransaction(signature, { maxSupportedTransactionVersion: 0 });
seen.stored = stored.meta.err === null && stored.meta.fee === 5000;
const parsed = await connection.getParsedTransaction(signature, { maxSupportedTransactionVersion: 0 });
seen.parsed = parsed.transaction.message.instructions[0].parsed.info.lamports;
const block = await connection.getBlock(stored.slot, { maxSupportedTransactionVersion: 0 });
seen.block = block.transactions.some((row) => row.transaction.signatures[0] === signature);
const listed = await connection.getSignaturesForAddress(target);
seen.listed = listed.map((row) => row.signature === signature);
seen.account = (await connection.getParsedAccountInfo(target)).value.lamports;
seen.status = (await connection.getSignatureStatus(signature)).value.confirmationStatus !== 'processed';

const tooMuch = SystemProgram.transfer({ fromPubkey: payer.publicKey, toPubkey: target, lamports: 1e12 });
try {
  await sendAndConfirmTransaction(connection, new Transaction().add(tooMuch), [payer]);
} catch (error) {
  seen.refused = error.message.includes('custom program error: 0x1') && error.logs.length === 3;
}
console.log(JSON.stringify(seen));
process.exit(0);
