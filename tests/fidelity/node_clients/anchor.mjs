// @coral-xyz/anchor: the voting program's instructions, accounts and events. Prints one JSON line.
import { readFileSync } from 'node:fs';
import anchor from '@coral-xyz/anchor';
import web3 from '@solana/web3.js';

const { AnchorProvider, BN, EventParser, Program, Wallet } = anchor;
const { Connection, Keypair, PublicKey } = web3;
const [url, wsEndpoint, idlPath] = process.argv.slice(2);
const connection = new Connection(url, { commitment: 'confirmed', wsEndpoint });
const payer = Keypair.generate();
const provider = new AnchorProvider(connection, new Wallet(payer), { commitment: 'confirmed', preflightCommitment: 'confirmed' });
const program = new Program(JSON.parse(readFileSync(idlPath, 'utf8')), provider);
const seen = {};

const airdrop = await connection.requestAirdrop(payer.publicKey, 2e9);
await connection.confirmTransaction({ signature: airdrop, ...(await connection.getLatestBlockhash()) });

const id = new BN(7);
const find = (...seeds) => PublicKey.findProgramAddressSync(seeds, program.programId)[0];
const community = find(Buffer.from('community'), payer.publicKey.toBuffer(), id.toArrayLike(Buffer, 'le', 8));
const member = find(Buffer.from('member'), community.toBuffer(), payer.publicKey.toBuffer());
const settings = {
  name: 'Anchor', description: 'from Node', joinPolicy: { open: {} }, votingPeriodMin: new BN(1), votingPeriodMax: new BN(86_400), maxOptions: 4,
};
const heard = new Promise((resolve) => program.addEventListener('communityCreated', (event, slot, signature) => resolve([event, signature])));
const slot = await new Promise((resolve) => connection.onSlotChange((info) => resolve(info.slot)));
seen.subscribed = slot > 0;
const create = () => program.methods.createCommunity(id, settings).accountsPartial({ creator: payer.publicKey, community, member });
const signature = await create().rpc();
const [event, under] = await heard;
seen.event = { under: under === signature, community: event.community.equals(community), fields: Object.keys(event).sort() };

const account = await program.account.community.fetch(community);
seen.account = account.authority.equals(payer.publicKey) && account.settings.name;
seen.members = (await program.account.member.all([{ memcmp: { offset: 8, bytes: community.toBase58() } }])).length;

const stored = await connection.getTransaction(signature, { maxSupportedTransactionVersion: 0, commitment: 'confirmed' });
const parser = new EventParser(program.programId, program.coder);
seen.parsed = [...parser.parseLogs(stored.meta.logMessages)].map((item) => item.name);
try {
  await program.methods.createCommunity(new BN(8), { ...settings, name: '' }).accountsPartial({ creator: payer.publicKey }).rpc();
} catch (error) {
  seen.refused = error.error?.errorCode?.code ?? String(error);
}
console.log(JSON.stringify(seen));
process.exit(0);
