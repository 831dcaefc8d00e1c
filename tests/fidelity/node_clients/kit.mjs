// @solana/kit: send, confirm, subscribe, fetch, and how a refusal is told. Prints one JSON line.
import {
  AccountRole, address, appendTransactionMessageInstruction, createSolanaRpc, createSolanaRpcSubscriptions, createTransactionMessage,
  fetchEncodedAccount, generateKeyPairSigner, getSignatureFromTransaction, isSolanaError, lamports, pipe, sendAndConfirmTransactionFactory,
  setTransactionMessageFeePayerSigner, setTransactionMessageLifetimeUsingBlockhash, signTransactionMessageWithSigners,
} from '@solana/kit';

const [url, wsUrl] = process.argv.slice(2);
const rpc = createSolanaRpc(url);
const rpcSubscriptions = createSolanaRpcSubscriptions(wsUrl);
const sendAndConfirm = sendAndConfirmTransactionFactory({ rpc, rpcSubscriptions });
const payer = await generateKeyPairSigner();
const target = (await generateKeyPairSigner()).address;
const commitment = 'confirmed';
const seen = {};

await rpc.requestAirdrop(payer.address, lamports(2_000_000_000n), { commitment }).send();
for (let tries = 0; tries < 200; tries++) {
  if ((await rpc.getBalance(payer.address, { commitment }).send()).value > 0n) break;
  await new Promise((resolve) => setTimeout(resolve, 50));
}

async function transfer(amount) {
  const data = new Uint8Array(12);
  const view = new DataView(data.buffer);
  view.setUint32(0, 2, true);
  view.setBigUint64(4, amount, true);
  const instruction = {
    programAddress: address('11111111111111111111111111111111'),
    accounts: [
      { address: payer.address, role: AccountRole.WRITABLE_SIGNER },
      { address: target, role: AccountRole.WRITABLE },
    ],
    data,
  };
  const { value: latest } = await rpc.getLatestBlockhash({ commitment }).send();
  const message = pipe(
    createTransactionMessage({ version: 'legacy' }),
    (draft) => setTransactionMessageFeePayerSigner(payer, draft),
    (draft) => setTransactionMessageLifetimeUsingBlockhash(latest, draft),
    (draft) => appendTransactionMessageInstruction(instruction, draft),
  );
  return signTransactionMessageWithSigners(message);
}

const stop = new AbortController();
const options = { abortSignal: stop.signal };
const logs = await rpcSubscriptions.logsNotifications({ mentions: [payer.address] }, { commitment }).subscribe(options);
const changes = await rpcSubscriptions.accountNotifications(target, { commitment, encoding: 'base64' }).subscribe(options);
// What comes before somebody waits for it is dropped: so wait first.
const first = async (stream) => { for await (const note of stream) return note; };
const heardLogs = first(logs);
const heardChange = first(changes);

const signed = await transfer(10_000_000n);
const signature = getSignatureFromTransaction(signed);
await sendAndConfirm(signed, { commitment });
const entry = await heardLogs;
seen.logs = entry.value.signature === signature && entry.value.err === null;
seen.change = Number((await heardChange).value.lamports);
stop.abort();

const account = await fetchEncodedAccount(rpc, target, { commitment });
seen.account = account.exists && Number(account.lamports);
const stored = await rpc.getTransaction(signature, { commitment, encoding: 'json', maxSupportedTransactionVersion: 0 }).send();
seen.stored = stored.meta.err === null && Number(stored.meta.fee);
const listed = await rpc.getSignaturesForAddress(target, { commitment }).send();
seen.listed = listed.map((row) => row.signature === signature);
const { value: statuses } = await rpc.getSignatureStatuses([signature]).send();
seen.status = statuses[0].confirmationStatus !== 'processed';
try {
  await sendAndConfirm(await transfer(1_000_000_000_000n), { commitment });
} catch (error) {
  seen.refused = isSolanaError(error) && error.message.includes('simulation failed') && isSolanaError(error.cause);
}
console.log(JSON.stringify(seen));
process.exit(0);
